// All parts of the page; each listens to the stream, which then begins.

import "./ledger.js";
import "./charts.js";
import "./endpoints.js";
import "./letters.js";
import "./side.js";
import "./keys.js";
import { begin } from "./events.js";

begin();

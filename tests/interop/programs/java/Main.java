import com.optimizely.ab.Optimizely;
import com.optimizely.ab.OptimizelyUserContext;
import com.optimizely.ab.event.AsyncEventHandler;
import com.optimizely.ab.event.EventHandler;
import com.optimizely.ab.event.LogEvent;
import com.optimizely.ab.event.internal.payload.Event;
import com.optimizely.ab.event.internal.payload.Snapshot;
import com.optimizely.ab.event.internal.payload.Visitor;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/** The program around the page's file: see sdks.py for what it reads and says. */
public final class Main {
    public static void main(String[] arguments) throws Exception {
        String datafile = Files.readString(Path.of(arguments[0]));
        EventHandler relay = System.getenv("SDKS_OWN_HANDLER") != null
            ? sdksOwn(arguments[1])
            : new RelayEventHandler(arguments[1], System.getenv("RELAY_TOKEN"));
        EventHandler saying = sent -> {
            say(sent);
            relay.dispatchEvent(sent);
        };
        try (Optimizely optimizely = RelayEventHandler.newClient(datafile, saying)) {
            System.out.println("ready");
            BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] words = line.split(" ");
                int first = Integer.parseInt(words[0]);
                for (int number = first; number < first + Integer.parseInt(words[1]); number++) use(optimizely, number);
            }
        }
        System.out.println("closed");
    }

    private static void use(Optimizely optimizely, int number) {
        OptimizelyUserContext user =
            optimizely.createUserContext("visitor-é-" + number, Map.of("plan", "gold", "country", "日本"));
        user.decide("checkout_flow");
        user.trackEvent("purchase", Map.of("revenue", number, "value", 0.25, "note", "café ☕ 北京"));
    }

    private static void say(LogEvent sent) {
        for (Visitor visitor : sent.getEventBatch().getVisitors())
            for (Snapshot snapshot : visitor.getSnapshots())
                for (Event event : snapshot.getEvents()) System.out.println("uuid " + event.getUuid());
    }

    /** The SDK's own handler, in front of the relay. */
    private static EventHandler sdksOwn(String relayUrl) {
        EventHandler own = AsyncEventHandler.builder().build();
        return event -> own.dispatchEvent(
            new LogEvent(event.getRequestMethod(), relayUrl, event.getRequestParams(), event.getEventBatch()));
    }
}

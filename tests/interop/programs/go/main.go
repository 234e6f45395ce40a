// The program around the page's files: see sdks.py for what it reads and says.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/optimizely/go-sdk/v2/pkg/client"
	"github.com/optimizely/go-sdk/v2/pkg/event"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	datafile, err := os.ReadFile(os.Args[1])
	check(err)
	optimizely, err := newClient(datafile, os.Args[2])
	check(err)
	if token := os.Getenv("RELAY_TOKEN"); token != "" {
		optimizely.EventProcessor.(*event.BatchEventProcessor).EventDispatcher = newDispatcher(token)
	}
	_, err = optimizely.EventProcessor.OnEventDispatch(func(sent event.LogEvent) {
		for _, visitor := range sent.Event.Visitors {
			for _, snapshot := range visitor.Snapshots {
				for _, one := range snapshot.Events {
					fmt.Println("uuid", one.UUID)
				}
			}
		}
	})
	check(err)
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var first, count int
		_, err = fmt.Sscan(lines.Text(), &first, &count)
		check(err)
		for number := first; number < first+count; number++ {
			use(optimizely, number)
		}
	}
	optimizely.Close()
	fmt.Println("closed")
}

func use(optimizely *client.OptimizelyClient, number int) {
	attributes := map[string]interface{}{"plan": "gold", "country": "日本"}
	user := optimizely.CreateUserContext(fmt.Sprintf("visitor-é-%d", number), attributes)
	user.Decide("checkout_flow", nil)
	check(user.TrackEvent("purchase", map[string]interface{}{"revenue": number, "value": 0.25, "note": "café ☕ 北京"}))
}

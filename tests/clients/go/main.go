// Increments counters as a stock grpc-go client does: default dial options, no retry policy.
//
// Calls come due at a fixed rate whatever the answers; a latency counts from when its call was
// due. It makes at least -calls of them and goes on until its standard input ends, then reads
// every counter and prints one line of JSON: calls, failures, longest stall, counters off.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "shoal.dev/clients/stubs/shoal/v1"
)

const (
	deadline = 5 * time.Second
	// Calls under way at most; what is due beyond waits, and its wait counts.
	inFlight = 2_000
	// Reading the counters at the end: attempts with a pause, for a cluster under a last change.
	reads = 20
	pause = 250 * time.Millisecond
)

type tally struct {
	sync.Mutex
	calls, forwarded int
	longest          time.Duration
	longestDue       time.Time
	failures         map[string]int
	failedDue        []time.Time
	acknowledged     []int64
}

type report struct {
	Client    string         `json:"client"`
	Calls     int            `json:"calls"`
	Seconds   float64        `json:"seconds"`
	Failed    int            `json:"failed"`
	Failures  map[string]int `json:"failures"`
	Forwarded float64        `json:"forwarded_percent"`
	Longest   float64        `json:"longest_ms"`
	LongestAt float64        `json:"longest_at"`
	FailedAt  []float64      `json:"failed_at"`
	Lost      int64          `json:"lost"`
	Doubled   int64          `json:"doubled"`
	Unread    int            `json:"unread"`
}

func (t *tally) increment(client pb.ShoalClient, key int, name []byte, due time.Time) {
	answer, err := call(client, name, nil)
	t.Lock()
	defer t.Unlock()
	if err != nil {
		known := status.Convert(err)
		t.failures[fmt.Sprintf("%s: %s", known.Code(), known.Message())]++
		t.failedDue = append(t.failedDue, due)
	} else if _, err := strconv.ParseInt(string(answer.Payload), 10, 64); err != nil {
		t.failures["the answer is no number"]++
	} else {
		t.acknowledged[key]++
		if answer.Forwarded {
			t.forwarded++
		}
	}
	if lasted := time.Since(due); lasted > t.longest {
		t.longest, t.longestDue = lasted, due
	}
}

func call(client pb.ShoalClient, name, payload []byte) (*pb.CallResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return client.Call(ctx, &pb.CallRequest{Key: name, Method: "incr", Payload: payload})
}

func read(client pb.ShoalClient, name []byte) (int64, bool) {
	for range reads {
		if answer, err := call(client, name, []byte("0")); err == nil {
			value, err := strconv.ParseInt(string(answer.Payload), 10, 64)
			return value, err == nil
		}
		time.Sleep(pause)
	}
	return 0, false
}

func dial(addresses string) []pb.ShoalClient {
	var clients []pb.ShoalClient
	for _, address := range strings.Split(addresses, ",") {
		channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatalf("%s: %v", address, err)
		}
		clients = append(clients, pb.NewShoalClient(channel))
	}
	return clients
}

func main() {
	addresses := flag.String("addresses", "", "comma-separated, one channel each")
	calls := flag.Int("calls", 3_000, "calls at least")
	keys := flag.Int("keys", 1_000, "counters")
	rate := flag.Float64("rate", 200, "calls per second")
	flag.Parse()
	over := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	clients, run := dial(*addresses), rand.Uint64()
	names := make([][]byte, *keys)
	for key := range names {
		names[key] = fmt.Appendf(nil, "grpc-go-%016x-%d", run, key)
	}
	t := &tally{failures: map[string]int{}, acknowledged: make([]int64, *keys)}
	began := time.Now()
	t.drive(clients, names, *calls, *rate, over)
	lasted := time.Since(began)
	json.NewEncoder(os.Stdout).Encode(t.report(clients, names, began, lasted))
}

func (t *tally) drive(clients []pb.ShoalClient, names [][]byte, calls int, rate float64, over chan struct{}) {
	var running sync.WaitGroup
	room, due := make(chan struct{}, inFlight), time.Now()
	for t.calls < calls || !closed(over) {
		due = due.Add(time.Duration(float64(time.Second) / rate))
		time.Sleep(time.Until(due))
		room <- struct{}{}
		key, client, at := rand.IntN(len(names)), clients[t.calls%len(clients)], due
		t.calls++
		running.Add(1)
		go func() {
			defer running.Done()
			t.increment(client, key, names[key], at)
			<-room
		}()
	}
	running.Wait()
}

func closed(over chan struct{}) bool {
	select {
	case <-over:
		return true
	default:
		return false
	}
}

func (t *tally) report(clients []pb.ShoalClient, names [][]byte, began time.Time, lasted time.Duration) report {
	told := report{
		Client:    "grpc-go " + grpc.Version,
		Calls:     t.calls,
		Seconds:   lasted.Seconds(),
		Failures:  t.failures,
		Forwarded: 100 * float64(t.forwarded) / float64(max(1, t.calls)),
		Longest:   float64(t.longest.Microseconds()) / 1_000,
		LongestAt: t.longestDue.Sub(began).Seconds(),
	}
	for _, count := range t.failures {
		told.Failed += count
	}
	if last := len(t.failedDue) - 1; last >= 0 {
		told.FailedAt = []float64{t.failedDue[0].Sub(began).Seconds(), t.failedDue[last].Sub(began).Seconds()}
	}
	for key, name := range names {
		value, ok := read(clients[key%len(clients)], name)
		if !ok {
			told.Unread++
			continue
		}
		told.Lost += max(0, t.acknowledged[key]-value)
		told.Doubled += max(0, value-t.acknowledged[key])
	}
	return told
}

//go:build ignore

// Closed-loop load on one OpenAI-compatible endpoint; prints one JSON object of figures.
//
//	load --port 8080 --clients 32 --seconds 4 [--stream --chunks 200 --interval-us 0] [--pid N]
//
// Every client keeps one connection and sends its next request when the last is answered. With --pid
// it adds what that process used meanwhile: microseconds of CPU for each request and each event.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	patience     = 60 * time.Second      // with one request
	afterFailure = 10 * time.Millisecond // so that a dead server is not hammered
	ticks        = 100                   // a second, in Linux's /proc/PID/stat
)

var (
	errCut = errors.New("a stream ended before its [DONE]")
	stamp  = []byte(`"t":`)
)

// tally is what one client saw; times in microseconds.
type tally struct {
	requests, failed, events int
	latency, first, lag      []float64
	failure                  error // the last
}

func (t *tally) add(other *tally) {
	t.requests += other.requests
	t.failed += other.failed
	t.events += other.events
	t.latency = append(t.latency, other.latency...)
	t.first = append(t.first, other.first...)
	t.lag = append(t.lag, other.lag...)
	if other.failure != nil {
		t.failure = other.failure
	}
}

type client struct {
	tally
	http          http.Client
	url           string
	body          []byte
	stream, paced bool
}

func since(begun time.Time) float64 { return float64(time.Since(begun)) / float64(time.Microsecond) }

func (c *client) run(until time.Time) {
	for time.Now().Before(until) {
		if err := c.ask(); err != nil {
			c.failed, c.failure = c.failed+1, err
			time.Sleep(afterFailure)
		}
	}
}

func (c *client) ask() error {
	begun := time.Now()
	response, err := c.http.Post(c.url, "application/json", bytes.NewReader(c.body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if c.stream {
		err = c.follow(response.Body, begun)
	} else {
		_, err = io.Copy(io.Discard, response.Body)
	}
	if err == nil {
		c.latency = append(c.latency, since(begun))
		c.requests++
	}
	return err
}

// follow reads a stream of events to its end.
func (c *client) follow(body io.Reader, begun time.Time) error {
	lines := bufio.NewReaderSize(body, 65536)
	first, done := true, false
	for {
		line, err := lines.ReadSlice('\n')
		if bytes.HasPrefix(line, []byte("data: ")) {
			c.events++
			if first {
				c.first = append(c.first, since(begun))
				first = false
			}
			if c.paced {
				c.late(line)
			}
			done = bytes.HasPrefix(line, []byte("data: [DONE]"))
		}
		if err == io.EOF && !done {
			err = errCut
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// late notes how long an event took from the upstream's clock to ours.
func (c *client) late(line []byte) {
	at := bytes.Index(line, stamp)
	if at < 0 {
		return
	}
	digits := line[at+len(stamp):]
	if end := bytes.IndexByte(digits, ','); end > 0 {
		if sent, err := strconv.ParseInt(string(digits[:end]), 10, 64); err == nil {
			c.lag = append(c.lag, float64(time.Now().UnixNano()-sent)/1e3)
		}
	}
}

// cpu is the user and system time of a process in seconds; from ps where there is no /proc.
func cpu(pid int) float64 {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		// The name in parentheses may hold spaces; utime and stime are fields 14 and 15 of all.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		return (user + system) / ticks
	}
	shown, _ := exec.Command("ps", "-o", "time=", "-p", strconv.Itoa(pid)).Output()
	total := 0.0
	for _, part := range strings.Split(strings.TrimSpace(string(shown)), ":") {
		value, _ := strconv.ParseFloat(part, 64)
		total = total*60 + value
	}
	return total
}

func main() {
	port := flag.Int("port", 8080, "of 127.0.0.1")
	model := flag.String("model", "a", "")
	clients := flag.Int("clients", 1, "")
	seconds := flag.Float64("seconds", 4, "")
	stream := flag.Bool("stream", false, "")
	chunks := flag.Int("chunks", 200, "events of a stream")
	interval := flag.Int("interval-us", 0, "between events")
	prompt := flag.Int("prompt-bytes", 200, "")
	pid := flag.Int("pid", 0, "of the process measured")
	flag.Parse()

	url := fmt.Sprintf("http://127.0.0.1:%d/v1/chat/completions", *port)
	body := fmt.Sprintf(`{"model":%q,"stream":%t,"x_chunks":%d,"x_interval_us":%d,"messages":[{"role":"user","content":%q}]}`,
		*model, *stream, *chunks, *interval, strings.Repeat("p", *prompt))
	all := make([]*client, *clients)
	for i := range all {
		own := &http.Transport{DisableCompression: true}
		all[i] = &client{url: url, body: []byte(body), stream: *stream, paced: *interval > 0}
		all[i].http = http.Client{Transport: own, Timeout: patience}
	}

	var running sync.WaitGroup
	used, begun := cpu(*pid), time.Now()
	until := begun.Add(time.Duration(*seconds * float64(time.Second)))
	for _, c := range all {
		running.Add(1)
		go func(c *client) {
			defer running.Done()
			c.run(until)
		}(c)
	}
	running.Wait()
	took := time.Since(begun).Seconds()
	used = (cpu(*pid) - used) * 1e6

	var sum tally
	for _, c := range all {
		sum.add(&c.tally)
	}
	found := map[string]float64{"rps": float64(sum.requests) / took, "errors": float64(sum.failed)}
	share := func(name string, values []float64, part float64) {
		if len(values) > 0 {
			sort.Float64s(values)
			found[name] = values[int(float64(len(values)-1)*part)]
		}
	}
	each := func(name string, count int) {
		if *pid > 0 && count > 0 {
			found[name] = used / float64(count)
		}
	}
	share("p50_us", sum.latency, 0.5)
	share("p99_us", sum.latency, 0.99)
	share("ttfb_p50_us", sum.first, 0.5)
	share("lag_p50_us", sum.lag, 0.5)
	share("lag_p99_us", sum.lag, 0.99)
	each("cpu_us_per_req", sum.requests)
	if *stream {
		found["chunks_ps"] = float64(sum.events) / took
		each("cpu_us_per_chunk", sum.events)
	}
	if sum.failure != nil {
		fmt.Fprintln(os.Stderr, "last failure:", sum.failure)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		os.Exit(1)
	}
}

//go:build ignore

// An inference server that costs next to nothing, so that what is measured is what stands in front of it.
//
//	upstream --port N [--bind-delay-s 0.3]
//
// GET is answered as a health check, POST as a chat completion of 0.6 KB, or, with `"stream": true`, of
// `x_chunks` events `x_interval_us` apart, each sent by itself and stamped with the time ("t", ns since
// 1970). The body is read and parsed whole, as by any server: that is what the bare figures stand for.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	usage = `"usage":{"prompt_tokens":25,"completion_tokens":10,"total_tokens":35},"timings":{"prompt_n":25,` +
		`"prompt_ms":13,"prompt_per_second":1923.1,"predicted_n":10,"predicted_ms":17,"predicted_per_second":588.2}`
	eventHead = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","t":`
	eventTail = `,"model":"m","choices":[{"index":0,"delta":{"content":"token "},"finish_reason":null}]}` + "\n\n"
	lastEvent = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},` +
		`"finish_reason":"stop"}],` + usage + "}\n\ndata: [DONE]\n\n"
)

var plain = []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"` + strings.Repeat("x", 300) + `"},"finish_reason":"stop"}],` + usage + `}`)

type order struct {
	Stream     bool  `json:"stream"`
	Chunks     int   `json:"x_chunks"`
	IntervalUS int64 `json:"x_interval_us"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		io.WriteString(w, `{"status":"ok"}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	wanted := order{Chunks: 10}
	if err := json.Unmarshal(body, &wanted); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if wanted.Stream {
		stream(w, wanted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(plain)
}

func stream(w http.ResponseWriter, wanted order) {
	w.Header().Set("Content-Type", "text/event-stream")
	interval := time.Duration(wanted.IntervalUS) * time.Microsecond
	event := make([]byte, 0, 256)
	due := time.Now()
	for ; wanted.Chunks > 0; wanted.Chunks-- {
		event = append(event[:0], eventHead...)
		event = strconv.AppendInt(event, time.Now().UnixNano(), 10)
		event = append(event, eventTail...)
		if _, err := w.Write(event); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		if interval > 0 {
			due = due.Add(interval)
			time.Sleep(time.Until(due))
		}
	}
	io.WriteString(w, lastEvent)
}

func main() {
	port := flag.Int("port", 0, "to listen on, of 127.0.0.1")
	delay := flag.Float64("bind-delay-s", 0, "as a model that loads")
	flag.Parse()
	time.Sleep(time.Duration(*delay * float64(time.Second)))
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(*port)))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(answer)))
}

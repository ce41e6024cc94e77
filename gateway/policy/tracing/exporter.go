package tracing

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// exporter sends spans to a collector, in batches, on a goroutine of its own. It outlives configurations that do not change it.
type exporter struct {
	collector collector
	log       *telemetry.Limited
	endpoint  string
	headers   map[string]string // secrets
	exported  *telemetry.Counter
	overflow  *telemetry.Counter
	failed    *telemetry.Counter
	queue     int // spans that may wait
	batch     int // spans that are sent at once
	interval  time.Duration
	timeout   time.Duration

	mu      sync.Mutex
	waiting recorded
	number  int // of spans in it
	closed  bool

	spare   recorded // run's own, as encoder is
	encoder encoder

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
	// cancel ends what is being sent.
	ctx    context.Context
	cancel context.CancelFunc
}

const (
	// maxBatch is how many bytes a batch has at most; collectors take messages of up to 4 MiB by default.
	maxBatch = 2 << 20
	// closeGrace is how long the last spans may take at the end.
	closeGrace = 3 * time.Second
)

func newExporter(w *policy.World, d *destination) *exporter {
	e := &exporter{
		collector: d.collector(), endpoint: d.endpoint(), headers: d.revealed(),
		log:      telemetry.NewLimited(w.Log, 30*time.Second),
		exported: w.Metrics.SpansExported,
		overflow: w.Metrics.SpansDropped.With(nil, "queue_full"),
		failed:   w.Metrics.SpansDropped.With(nil, "export_failed"),
		queue:    d.Queue, batch: d.Batch, interval: d.Interval, timeout: d.Timeout,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// start connects, which waits for nobody, and begins to send.
func (e *exporter) start() error {
	if err := e.collector.start(e.ctx); err != nil {
		e.cancel()
		return err
	}
	go e.run()
	return nil
}

// add hands the spans of a request over, or drops them if too many are waiting.
func (e *exporter) add(x *exchange.Exchange, r *recording) {
	n := 1 + len(r.outgoing)
	e.mu.Lock()
	before := e.number
	taken := !e.closed && before+n <= e.queue
	if taken {
		e.waiting.add(x, r)
		e.number += n
	}
	e.mu.Unlock()
	switch {
	case !taken:
		e.overflow.Add(int64(n))
	case before < e.batch && before+n >= e.batch:
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

func (e *exporter) run() {
	defer close(e.done)
	t := time.NewTicker(e.interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-e.wake:
		case <-e.stop:
			e.flush(true)
			return
		}
		e.flush(false)
	}
}

// flush sends all that waits; last has nothing wait after it.
func (e *exporter) flush(last bool) {
	e.mu.Lock()
	e.waiting, e.spare = e.spare, e.waiting
	e.number, e.closed = 0, last
	e.mu.Unlock()
	n, outgoing, text := 0, e.spare.outgoing, texts{e.spare.text}
	for i := range e.spare.requests {
		r := &e.spare.requests[i]
		if n > 0 && n+1+r.outgoing > e.batch {
			e.sendEncoded()
			n = 0
		}
		e.encoder.request(r, outgoing[:r.outgoing], &text)
		n += 1 + r.outgoing
		outgoing = outgoing[r.outgoing:]
	}
	e.sendEncoded()
	e.spare.empty()
}

// sendEncoded sends what is encoded, in batches.
func (e *exporter) sendEncoded() {
	for rest := e.encoder.spans; len(rest) > 0; {
		var batch []byte
		var n int
		batch, n, rest = cutBatch(rest, e.batch)
		e.send(batch, n)
	}
	if e.encoder.spans = e.encoder.spans[:0]; cap(e.encoder.spans) > maxBatch {
		e.encoder.spans = nil
	}
}

// cutBatch cuts spans off, not more than fit a batch but one.
func cutBatch(spans []byte, most int) (batch []byte, n int, rest []byte) {
	at := 0
	for at < len(spans) && n < most {
		_, _, size := protowire.ConsumeField(spans[at:])
		if size < 0 {
			panic("BUG: spans are not encoded as they have to be")
		}
		if n > 0 && at+size > maxBatch {
			break
		}
		at += size
		n++
	}
	return spans[:at], n, spans[at:]
}

func (e *exporter) send(batch []byte, n int) {
	ctx, cancel := context.WithTimeout(e.ctx, e.timeout)
	defer cancel()
	err := e.collector.take(ctx, batch)
	lost := 0
	if err != nil {
		lost = rejected(err, n)
		e.failed.Add(int64(lost))
		e.log.Log(slog.LevelWarn, "export", "cannot export spans", "endpoint", e.endpoint, "error", telemetry.Foreign(err.Error(), e.headers), "lost_spans", lost)
	}
	e.exported.Add(int64(n - lost))
}

// partial is how OpenTelemetry's client tells of a collector that took some; it has no type for it that could be asked.
var partial = regexp.MustCompile(`^OTLP partial success: .*\((\d+) spans rejected\)$`)

// rejected is how many of n spans are lost by err.
func rejected(err error, n int) int {
	if p, ok := errors.AsType[*partly](err); ok {
		return int(min(max(p.rejected, 0), int64(n)))
	}
	if m := partial.FindStringSubmatch(err.Error()); m != nil {
		if lost, err := strconv.Atoi(m[1]); err == nil {
			return min(lost, n)
		}
	}
	return n
}

// Close sends what waits, within bounds, and ends the exporter.
func (e *exporter) Close() error {
	close(e.stop)
	t := time.AfterFunc(closeGrace, e.cancel)
	defer t.Stop()
	<-e.done
	e.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	return e.collector.stop(ctx)
}

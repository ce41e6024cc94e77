package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/stripe"
)

// Outputs and their limits.
const (
	flushInterval = 500 * time.Millisecond // a line is written within a second, also when its neighbour takes a moment
	flushSize     = 32 << 10               // bytes that are written without waiting for more
	lightPause    = 50 * time.Millisecond  // between looks at the shards, with few lines
	busyPause     = 10 * time.Millisecond  // and with many
	minShardSize  = 512 << 10              // takes the longest possible line with room to spare
	defaultBuffer = 4 << 20
)

// AccessLogs are the access log outputs of a gateway, one for each path, shared by everything that logs there and kept
// over reloads. Only its writers' goroutines touch files.
type AccessLogs struct {
	metrics *Metrics
	log     *Limited
	buffer  int

	mu     sync.Mutex
	open   map[string]*AccessLog
	ending []*AccessLog // given back, still writing their last lines
	closed bool
}

// NewAccessLogs makes an empty set. Lines and losses are counted in m, failures reported to log once a minute. buffer is the
// number of bytes that may wait for each output, default 4 MiB; up to as much again is being written.
func NewAccessLogs(m *Metrics, log *slog.Logger, buffer int) *AccessLogs {
	if buffer <= 0 {
		buffer = defaultBuffer
	}
	return &AccessLogs{metrics: m, log: NewLimited(log, time.Minute), buffer: buffer, open: map[string]*AccessLog{}}
}

// Open leases the output at path for g (nil: until Close) and starts its writer if it is new. path is "stdout", "stderr" or a file, which
// is created with mode 0640 and appended to.
func (l *AccessLogs) Open(g *Generation, path string) (*AccessLog, error) {
	a, err := l.acquire(path, func() (io.WriteCloser, error) { return openOutput(path) })
	if err != nil {
		return nil, fmt.Errorf("cannot open access log %s: %w", path, err)
	}
	g.hold(a)
	return a, nil
}

// Output is where the lines of an access log go. One goroutine calls it.
type Output interface {
	// Lines takes whole lines and returns how many of them are lost, and if so why. It may wait, within bounds: lines that come
	// meanwhile wait in the log's buffer and are dropped when that is full.
	Lines(lines []byte) (lost int, err error)
	Close() error
}

// OpenOutput leases an output that is no file for g (nil: until Close), under an identity of its own. name is what people read of it.
// open gets a channel that is closed when the output is to come to an end. Rotation leaves it alone.
func (l *AccessLogs) OpenOutput(g *Generation, identity, name string, open func(stop <-chan struct{}) (Output, error)) (*AccessLog, error) {
	a, err := l.lease(identity, name, false, open)
	if err != nil {
		return nil, fmt.Errorf("cannot open access log %s: %w", name, err)
	}
	g.hold(a)
	return a, nil
}

func (l *AccessLogs) acquire(path string, open func() (io.WriteCloser, error)) (*AccessLog, error) {
	return l.lease(path, path, true, func(<-chan struct{}) (Output, error) {
		w, err := open()
		if err != nil {
			return nil, err
		}
		return &stream{WriteCloser: w}, nil
	})
}

func (l *AccessLogs) lease(identity, name string, rotates bool, open func(stop <-chan struct{}) (Output, error)) (*AccessLog, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, os.ErrClosed
	}
	a := l.open[identity]
	if a == nil {
		stop := make(chan struct{})
		out, err := open(stop)
		if err != nil {
			return nil, err
		}
		a = newAccessLog(l, identity, name, rotates, stop, open)
		l.open[identity] = a
		go a.write(out)
	}
	a.refs++
	return a, nil
}

func (a *AccessLog) release() {
	l := a.logs
	l.mu.Lock()
	defer l.mu.Unlock()
	a.refs--
	if a.refs > 0 || l.closed {
		return
	}
	delete(l.open, a.identity)
	close(a.stop)
	l.ending = append(slices.DeleteFunc(l.ending, (*AccessLog).ended), a)
}

// Reopen writes out what waits and opens all files anew, for log rotation: rename, then Reopen. Lines are lost in
// neither. A file that cannot be opened keeps being written where it was; that is among the errors returned.
func (l *AccessLogs) Reopen(ctx context.Context) error {
	l.mu.Lock()
	var logs []*AccessLog
	for _, a := range l.open {
		if a.rotates {
			logs = append(logs, a)
		}
	}
	l.mu.Unlock()
	errs := make([]error, len(logs))
	var wg sync.WaitGroup // one that is stuck must not keep the others from reopening
	for i, a := range logs {
		wg.Go(func() {
			if err := a.reopen(ctx); err != nil {
				errs[i] = fmt.Errorf("cannot reopen access log %s: %w", a.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close writes out what waits and closes all outputs; later lines are dropped. It gives up waiting when ctx ends, as behind a
// pipe that nobody reads.
func (l *AccessLogs) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		for _, a := range l.open {
			close(a.stop)
			l.ending = append(l.ending, a)
		}
	}
	ending := slices.Clone(l.ending)
	l.mu.Unlock()
	for _, a := range ending {
		select {
		case <-a.done:
		case <-ctx.Done():
			return fmt.Errorf("cannot finish access log %s: %w", a.name, context.Cause(ctx))
		}
	}
	return nil
}

// AccessLog is one output. Append may be called concurrently; one goroutine writes.
type AccessLog struct {
	logs     *AccessLogs
	identity string
	name     string
	rotates  bool
	open     func(stop <-chan struct{}) (Output, error)
	refs     int // guarded by logs.mu

	shards  []shard       // a power of two
	awake   atomic.Bool   // the writer looks at the shards by itself
	wake    chan struct{} // what it waits for otherwise
	reopens chan chan error
	stop    chan struct{}
	done    chan struct{}

	// Owned by the writer's goroutine.
	spare []byte // changes places with the buffer of a shard
}

// A shard collects lines of few cores. Its buffer never grows: what does not fit is dropped.
type shard struct {
	mu     sync.Mutex
	buf    []byte
	lines  int // in buf
	closed bool
	_      [64]byte
}

func newAccessLog(l *AccessLogs, identity, name string, rotates bool, stop chan struct{}, open func(stop <-chan struct{}) (Output, error)) *AccessLog {
	a := &AccessLog{
		logs: l, identity: identity, name: name, rotates: rotates, open: open,
		wake:    make(chan struct{}, 1),
		reopens: make(chan chan error),
		stop:    stop,
		done:    make(chan struct{}),
	}
	shards := stripe.Count()
	for shards > 1 && l.buffer/shards < minShardSize {
		shards /= 2
	}
	size := max(l.buffer/shards, minShardSize)
	a.shards = make([]shard, shards)
	for i := range a.shards {
		a.shards[i].buf = make([]byte, 0, size)
	}
	a.spare = make([]byte, 0, size)
	return a
}

// Append hands over the line of r and reports whether it was taken. It allocates nothing but, now and then, for the text of another second,
// and does not wait for the output: when that is too slow the line is dropped and counted. Lines of different cores may change places within a flush.
func (a *AccessLog) Append(f *Format, r *Record) bool {
	need, first := maxLine(r), stripe.Mine()
	for i := range a.shards {
		s := &a.shards[(int(first)+i)&(len(a.shards)-1)]
		s.mu.Lock()
		before := len(s.buf)
		if s.closed || cap(s.buf)-before < need {
			s.mu.Unlock()
			continue // another shard may have room
		}
		s.buf = f.Append(s.buf, r)
		s.lines++
		s.mu.Unlock()
		if before == 0 && !a.awake.Load() {
			a.rouse()
		}
		return true
	}
	a.logs.metrics.AccessLogDropped.Inc()
	return false
}

// rouse has the writer look at the shards.
func (a *AccessLog) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// write is the writer's goroutine. While there are lines it looks at the shards again and again rather than being told: a channel
// that requests signal would cost them more, and makes the runtime allocate now and then.
func (a *AccessLog) write(out Output) {
	defer close(a.done)
	for {
		// A line appended before awake was cleared is seen now; one appended after it wakes.
		a.awake.Store(false)
		if a.waiting() == 0 {
			select {
			case <-a.wake:
			case answer := <-a.reopens:
				out = a.rotate(out, answer)
				continue
			case <-a.stop:
				a.finish(out)
				return
			}
		}
		a.awake.Store(true)
		pause, since := lightPause, time.Now()
		for {
			time.Sleep(pause)
			select {
			case answer := <-a.reopens:
				out = a.rotate(out, answer)
			case <-a.stop:
				a.finish(out)
				return
			default:
			}
			waiting := a.waiting()
			if waiting == 0 {
				break
			}
			if waiting >= flushSize || time.Since(since) >= flushInterval {
				a.flush(out, false)
				pause, since = lightPause, time.Now()
				if waiting >= flushSize {
					pause = busyPause
				}
			}
		}
	}
}

// waiting is the number of bytes in the shards.
func (a *AccessLog) waiting() int {
	n := 0
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		n += len(s.buf)
		s.mu.Unlock()
	}
	return n
}

// rotate gives the output to write to from now on.
func (a *AccessLog) rotate(out Output, answer chan<- error) Output {
	a.flush(out, false)
	next, err := a.open(a.stop)
	if err == nil {
		a.close(out)
		out = next
	}
	answer <- err
	return out
}

func (a *AccessLog) finish(out Output) {
	a.flush(out, true)
	a.close(out)
}

func (a *AccessLog) reopen(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case a.reopens <- answer:
	case <-a.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *AccessLog) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// flush writes all shards; last also closes them, so that no line is taken which nobody would write.
func (a *AccessLog) flush(out Output, last bool) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		lines, n := s.buf, s.lines
		s.buf, s.lines = a.spare[:0], 0
		s.closed = last
		s.mu.Unlock()
		if n > 0 {
			a.writeLines(out, lines, n)
		}
		a.spare = lines
	}
}

var newline = []byte{'\n'}

// writeLines writes n whole lines. What fails is not tried again: a full disk would fill the memory next.
func (a *AccessLog) writeLines(out Output, lines []byte, n int) {
	m := a.logs.metrics
	lost, err := out.Lines(lines)
	m.AccessLogLines.Add(int64(n - lost))
	if err != nil {
		m.AccessLogDropped.Add(int64(lost))
		m.AccessLogErrors.Inc()
		a.logs.log.Log(slog.LevelError, "access log "+a.name, "cannot write access log",
			"path", a.name, "error", err, "lost_lines", lost)
	}
}

// stream is an output that takes bytes, such as a file.
type stream struct {
	io.WriteCloser
	torn bool // the last write ended within a line
}

// Lines writes lines.
func (s *stream) Lines(lines []byte) (lost int, err error) {
	if s.torn {
		// End the line that a failed write left behind, so that it spoils no other.
		if _, err = s.Write(newline); err == nil {
			s.torn = false
		}
	}
	n := 0
	if err == nil {
		n, err = s.Write(lines)
		if n > 0 {
			s.torn = lines[n-1] != '\n'
		}
	}
	return bytes.Count(lines[n:], newline), err
}

func (a *AccessLog) close(out io.Closer) {
	if err := out.Close(); err != nil {
		a.logs.metrics.AccessLogErrors.Inc()
		a.logs.log.Log(slog.LevelError, "access log "+a.name, "cannot close access log", "path", a.name, "error", err)
	}
}

func openOutput(path string) (io.WriteCloser, error) {
	switch path {
	case "stdout":
		return keepOpen{os.Stdout}, nil
	case "stderr":
		return keepOpen{os.Stderr}, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
}

// keepOpen is a stream that belongs to the process.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

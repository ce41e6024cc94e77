// Package cluster is the state that instances of the gateway share through Redis, or a server that speaks its protocol and runs its
// scripts: what is left of limits and quotas, records of idempotency keys, and purges of caches.
//
// It guarantees that what is lent to instances was debited before, so that together they never pass more than a limit allows while
// the store answers; that a request which takes from what is lent waits for nobody; that one which has to ask waits no longer than
// the timeout, whatever has become of the store; and that an instance without the store goes on as it was told to: with its
// part of each limit, without limits, or not at all.
//
// What may go unused of a limit, where one instance is asked for all of it: of the bucket a 32nd for each instance, which is what it
// uses before it tells or keeps through a pause, and what the bucket earns in 100 ms and two requests for each, which are lots that
// are not asked back yet (TestNeverMoreThanTheLimit). What an instance holds that is killed lapses after 5 s, what it kept
// through a pause after a minute. An instance that was parted from the store is charged for what it has used alone when it is back, less
// what it was lent; where the store has forgotten all meanwhile, for what its part of a full bucket lacks (TestBackFromAlone). Of a window of
// the clock that began meanwhile, what it was lent in the last one goes unused.
package cluster

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// OnFailure is what happens while the store does not answer.
type OnFailure uint8

// What may happen.
const (
	// Local: each instance has its part of every limit.
	Local OnFailure = iota
	// Allow: there are no limits.
	Allow
	// Deny: what would have to be counted is refused.
	Deny
)

// Options of a Store. Addresses, Prefix, Timeout, Now and Wall are required.
type Options struct {
	// Addresses of the server, of nodes of a cluster, or of sentinels where Master names what they watch.
	Addresses          []string
	Username, Password string
	DB                 int
	// TLS is nil where it is not spoken.
	TLS *tls.Config

	Master                             string
	SentinelUsername, SentinelPassword string

	// Prefix of all keys. Instances with the same one share their state.
	Prefix string
	// Timeout of a call. A store that answers nothing in time for a while counts as gone.
	Timeout   time.Duration
	OnFailure OnFailure

	Log *slog.Logger
	// Now is a monotonic clock in nanoseconds, Wall the time of day.
	Now  func() int64
	Wall func() time.Time
	// Observe, which may be nil, is told of every call that has ended.
	Observe func(op string, took time.Duration, err error)
}

const (
	// beatEvery is how often an instance says that it is there, and stay how long the others believe it.
	beatEvery = 500 * time.Millisecond
	stay      = 3 * time.Second
	// probeEvery is how often a store that is gone is looked for.
	probeEvery = 100 * time.Millisecond
	// patience bounds what nobody waits for: opening a connection, looking for the store.
	patience = time.Second
	// firstWait is how long Start waits to learn how many instances there are.
	firstWait = 500 * time.Millisecond
)

var (
	errDown     = errors.New("the store is down")
	errLate     = errors.New("no answer within the timeout")
	errBusy     = errors.New("too many calls wait for the store")
	errNoClient = errors.New("not connected")
)

// Store is the connection to what is shared. Make one with Open.
type Store struct {
	o      Options
	id     string // of this instance, idLen characters
	client atomic.Pointer[rueidis.Client]

	up       atomic.Bool
	answered atomic.Int64 // when an answer came in time last, by the real clock
	fleet    atomic.Pointer[fleet]
	sizes    []int // numbers of instances in the latest beats, the youngest last

	mu        sync.Mutex
	told      bool // the log knows whether it can be reached
	recovered []*func()

	queue   chan *call
	flushes chan struct{} // its capacity bounds those under way
	wake    chan struct{} // has a beat come early
	first   chan struct{} // closed after the first beat
	begun   time.Time

	limiter *Limiter
	records *Records
	events  *events
	charges atomic.Int64 // of quotas, by which each has a nonce

	// serverNow is the time of the store's clock in µs, for tests that make it stand still; nil for its own.
	serverNow func() int64

	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
}

const idLen = 16

// fleet are the instances, as far as this one knows.
type fleet struct {
	ids string // separated by spaces, this one among them
	// now is how many there are, most and least how many there were in the latest beats, since not all learn of a change at once.
	now, most, least int
}

// Open returns a store that is not connected yet.
func Open(o Options) *Store {
	var id [idLen / 2]byte
	_, _ = rand.Read(id[:])
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(string, time.Duration, error) {}
	}
	s := &Store{
		o: o, id: hex.EncodeToString(id[:]), begun: time.Now(),
		queue: make(chan *call, maxWaiting), flushes: make(chan struct{}, maxFlushes),
		wake: make(chan struct{}, 1), first: make(chan struct{}),
	}
	s.fleet.Store(&fleet{ids: s.id, now: 1, most: 1, least: 1})
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.limiter = newLimiter(s)
	s.records = newRecords(s)
	s.events = newEvents(s)
	return s
}

// Start connects, in the background. It returns when the other instances are known, or after a short time without: a gateway starts
// also where its store is gone.
func (s *Store) Start() {
	s.done.Go(s.beats)
	s.done.Go(s.deliver)
	s.done.Go(s.limiter.run)
	s.done.Go(s.records.run)
	s.done.Go(s.events.run)
	s.done.Go(s.events.tell)
	select {
	case <-s.first:
	case <-time.After(firstWait):
	}
}

// Close gives back what is lent and leaves. What still uses the store goes on as without it.
func (s *Store) Close() error {
	if s.up.Load() {
		s.records.settle()
		s.limiter.returnAll()
		s.leave()
	}
	s.up.Store(false)
	s.stop()
	s.done.Wait()
	if c := s.client.Load(); c != nil {
		(*c).Close()
	}
	return nil
}

// Limiter returns the shared limits.
func (s *Store) Limiter() *Limiter { return s.limiter }

// Records returns the shared records of idempotency keys.
func (s *Store) Records() *Records { return s.records }

// Up reports whether the store answers.
func (s *Store) Up() bool { return s.up.Load() }

// Instances is how many instances share the store, as far as this one knows: at least 1.
func (s *Store) Instances() int { return s.fleet.Load().now }

// OnFailure is what happens while the store does not answer.
func (s *Store) OnFailure() OnFailure { return s.o.OnFailure }

// OnRecovery has f called, in a goroutine of its own, each time the store answers again, until stop is called.
func (s *Store) OnRecovery(f func()) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recovered = append(s.recovered, &f)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.recovered = slices.DeleteFunc(s.recovered, func(o *func()) bool { return o == &f })
	}
}

// connect opens the first connection, and finds out what kind of server it is.
func (s *Store) connect() (rueidis.Client, error) {
	o := rueidis.ClientOption{
		InitAddress: s.o.Addresses, Username: s.o.Username, Password: s.o.Password, SelectDB: s.o.DB, TLSConfig: s.o.TLS,
		ClientName: "sluice",
		Dialer:     net.Dialer{Timeout: patience},
		// Whoever waits has a time of its own; this ends a connection that is silent.
		ConnWriteTimeout: 2 * time.Second,
		// A call that failed is not made again behind the back of those who count.
		DisableRetry: true, DisableCache: true, AlwaysPipelining: true, PipelineMultiplex: -1,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
		ClusterOption: rueidis.ClusterOption{ShardsRefreshInterval: 10 * time.Second, MaxMovedRedirections: 3},
	}
	if s.o.Master != "" {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: s.o.Master, Username: s.o.SentinelUsername, Password: s.o.SentinelPassword, TLSConfig: s.o.TLS,
			Dialer: o.Dialer, TopologyRefreshInterval: 5 * time.Second,
		}
	}
	return rueidis.NewClient(o)
}

// scriptNow is what scripts are told of the time: "0", which is to look at the server's clock.
func (s *Store) scriptNow() string {
	if s.serverNow == nil {
		return "0"
	}
	return number(s.serverNow())
}

// key names something of the store. What stands in braces decides on which node of a cluster it lies.
func (s *Store) key(name string) string { return s.o.Prefix + ":" + name }

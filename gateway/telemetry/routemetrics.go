package telemetry

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/grpcwire"
	"sluice/gateway/stripe"
)

// maxRequestSeries bounds the pairs of method and status code of one route and service.
const maxRequestSeries = 256

// RouteMetrics are the resolved series of a route together with the service that answers it. All methods may be called concurrently; on
// series that exist they allocate nothing.
type RouteMetrics struct {
	// What every request changes: copies of the handles, which say where the numbers are.
	inFlight           Level
	table              atomic.Pointer[codeTable]
	overhead, duration Histogram
	bytesOut, bytesIn  Counter

	metrics *Metrics
	key     routeKey
	refs    int         // guarded by metrics.mu
	lease   *Generation // owns the series, also those made later

	mu   sync.Mutex
	rpcs [grpcwire.Codes]atomic.Pointer[Counter]
	// failures are refused credentials by reason; copied under mu when a reason is new.
	failures atomic.Pointer[map[string]*Counter]
}

// Route leases the series of a route and one of its services for g (nil: for good). The same pair gives the same handle. A route
// with several services has a handle for each; what carries only the route's label is shared by them.
func (m *Metrics) Route(g *Generation, route, service string) *RouteMetrics {
	key := routeKey{route, service}
	m.mu.Lock()
	r := m.routes[key]
	if r == nil {
		lease := m.Begin()
		made := routeRows{overhead: m.Overhead.family.shape, duration: m.RequestDuration.family.shape}
		r = &RouteMetrics{
			metrics:  m,
			key:      key,
			lease:    lease,
			duration: *m.RequestDuration.withMade(lease, made.durations, route),
			overhead: *m.Overhead.withMade(lease, made.overheads, route),
			bytesIn:  *m.Bytes.withMade(lease, made.counter(rowBytesIn), "in", route),
			bytesOut: *m.Bytes.withMade(lease, made.counter(rowBytesOut), "out", route),
			inFlight: *m.InFlight.withMade(lease, made.level, route),
		}
		r.table.Store(newCodeTable(3))
		m.routes[key] = r
	}
	r.refs++
	m.mu.Unlock()
	g.hold(r)
	return r
}

// routeRows makes the series of a route that each of its requests changes: as far as they are new they share rows. Where they are in
// a row is in the order of what requests touch, so that one cache line has most of it.
type routeRows struct {
	overhead, duration *histogramShape
	rows               *rows
}

const (
	rowInFlight = iota
	rowBytesOut
	rowBytesIn
	rowOverheadSum
	rowDurationSum
	rowBuckets // of overhead, then those of duration
)

func (r *routeRows) of(stripes int) *rows {
	if r.rows == nil || r.rows.stripes != stripes {
		r.rows = newRows(stripes, rowBuckets+r.overhead.buckets()+r.duration.buckets())
	}
	return r.rows
}

func (r *routeRows) level(stripes int) metric { return &Level{*r.of(stripes).counter(rowInFlight)} }

func (r *routeRows) counter(at int) func(stripes int) metric {
	return func(stripes int) metric { return r.of(stripes).counter(at) }
}

func (r *routeRows) overheads(stripes int) metric {
	return r.of(stripes).histogram(r.overhead, rowOverheadSum, rowBuckets)
}

func (r *routeRows) durations(stripes int) metric {
	return r.of(stripes).histogram(r.duration, rowDurationSum, rowBuckets+r.overhead.buckets())
}

func (r *RouteMetrics) release() { leave(r.metrics, r.metrics.routes, r.key, &r.refs, r.lease) }

// leave gives up one of the references to what table has under key; the last one ends its series.
func leave[K comparable, V any](m *Metrics, table map[K]V, key K, refs *int, lease *Generation) {
	m.mu.Lock()
	*refs--
	gone := *refs == 0
	if gone {
		delete(table, key)
	}
	m.mu.Unlock()
	if gone {
		lease.Close()
	}
}

// AuthFailed counts a refused credential. The reasons are words of the
// policies, a small closed set. Their series are the route's, not those of the
// generation in which one came first: that ends before the route does.
func (r *RouteMetrics) AuthFailed(reason string) {
	known := r.failures.Load()
	if known != nil {
		if c := (*known)[reason]; c != nil {
			c.Inc()
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[string]*Counter)
	if known = r.failures.Load(); known != nil {
		maps.Copy(next, *known)
	}
	if next[reason] == nil {
		next[reason] = r.metrics.AuthFailures.With(r.lease, r.key.route, reason)
		r.failures.Store(&next)
	}
	next[reason].Inc()
}

// Begin counts a request as being in flight; Done of any handle of the same route ends that.
func (r *RouteMetrics) Begin() { r.inFlight.Inc() }

// Sample is one request that ended.
type Sample struct {
	Method            Method
	Code              int           // status code; outside 100 to 599 it is other
	Duration          time.Duration // whole request
	Overhead          time.Duration // without the backend
	BytesIn, BytesOut int64         // bodies
}

// Done counts a request that Begin was called for.
func (r *RouteMetrics) Done(s *Sample) {
	at := stripe.Mine()
	r.inFlight.addAt(at, -1)
	r.requests(s.Method, s.Code).addAt(at, 1)
	r.duration.observeAt(at, s.Duration)
	r.overhead.observeAt(at, s.Overhead)
	if s.BytesIn > 0 {
		r.bytesIn.addAt(at, s.BytesIn)
	}
	if s.BytesOut > 0 {
		r.bytesOut.addAt(at, s.BytesOut)
	}
}

// RPC counts a call of gRPC that ended with this status.
func (r *RouteMetrics) RPC(status uint8) {
	code := grpcwire.Code(status)
	if code >= grpcwire.Codes {
		code = grpcwire.Unknown
	}
	c := r.rpcs[code].Load()
	if c == nil {
		c = r.metrics.RPCs.With(r.lease, r.key.route, r.key.service, code.Name())
		r.rpcs[code].Store(c)
	}
	c.Inc()
}

func (r *RouteMetrics) requests(method Method, code int) *Counter {
	if code < 100 || code > 599 {
		code = 0
	}
	key := uint32(method)<<16 | uint32(code)
	if s := r.table.Load().slot(key); s.taken() {
		return &s.counter
	}
	return r.addRequests(key)
}

// addRequests is the slow way of the first request of its kind.
func (r *RouteMetrics) addRequests(key uint32) *Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	table := r.table.Load()
	if s := table.slot(key); s.taken() {
		return &s.counter
	}
	method, code := methodNames[key>>16], other
	if n := key & 0xffff; n != 0 {
		code = strconv.Itoa(int(n))
	}
	if table.used >= maxRequestSeries {
		method, code = other, other
		if s := table.slot(0); s.taken() { // the key of other, other
			return &s.counter
		}
		key = 0
	}
	c := r.metrics.Requests.With(r.lease, r.key.route, r.key.service, method, code)
	r.table.Store(table.with(key, c))
	return c
}

// RouteStats is a reading of a RouteMetrics.
type RouteStats struct {
	Requests          uint64
	ByClass           [6]uint64 // by the first digit of the status code; 0 is other
	InFlight          int64
	BytesIn, BytesOut uint64
	P50, P95, P99     time.Duration // of whole requests, estimates from the histogram
	// Of the gateway's own time, likewise.
	OverheadP50, OverheadP95, OverheadP99 time.Duration
}

// Stats reads the numbers now. Requests are those of the service; all else is of the whole route.
func (r *RouteMetrics) Stats() RouteStats {
	var durations, overheads Distribution
	r.AddTo(&durations, &overheads)
	s := RouteStats{
		InFlight:    r.inFlight.Value(),
		BytesIn:     r.bytesIn.Value(),
		BytesOut:    r.bytesOut.Value(),
		P50:         durations.Quantile(.50),
		P95:         durations.Quantile(.95),
		P99:         durations.Quantile(.99),
		OverheadP50: overheads.Quantile(.50),
		OverheadP95: overheads.Quantile(.95),
		OverheadP99: overheads.Quantile(.99),
	}
	slots := r.table.Load().slots
	for i := range slots {
		if slot := &slots[i]; slot.taken() {
			n := slot.counter.Value()
			s.Requests += n
			s.ByClass[slot.key&0xffff/100] += n
		}
	}
	return s
}

// AddTo takes the route's durations and overheads into readings of many routes.
func (r *RouteMetrics) AddTo(durations, overheads *Distribution) {
	durations.add(&r.duration)
	overheads.add(&r.overhead)
}

// codeTable finds a counter by method and status code: open addressing, at most half full, replaced rather than changed.
type codeTable struct {
	slots []codeSlot // a power of two
	shift uint
	used  int
}

type codeSlot struct {
	counter Counter // a copy of the handle; without cells: free
	key     uint32
}

func (s *codeSlot) taken() bool { return s.counter.cells != nil }

func newCodeTable(bits uint) *codeTable {
	return &codeTable{slots: make([]codeSlot, 1<<bits), shift: 32 - bits}
}

// slot is where the key is, or belongs.
func (t *codeTable) slot(key uint32) *codeSlot {
	mask := uint32(len(t.slots) - 1)
	for i := key * 0x9e3779b1 >> t.shift; ; i++ {
		if s := &t.slots[i&mask]; s.key == key || !s.taken() {
			return s
		}
	}
}

func (t *codeTable) with(key uint32, c *Counter) *codeTable {
	bits := 32 - t.shift
	if 2*(t.used+1) > len(t.slots) {
		bits++
	}
	next := newCodeTable(bits)
	for i := range t.slots {
		if s := &t.slots[i]; s.taken() {
			*next.slot(s.key) = *s
		}
	}
	*next.slot(key) = codeSlot{*c, key}
	next.used = t.used + 1
	return next
}

// Package telemetry measures the gateway and tells about it: metrics, the access log and the operator's log.
//
// Its guarantee: what stands on a request's path (counting, observing, appending an access log line) allocates nothing,
// never waits for I/O and keeps every buffer and every number of series bounded. Numbers outlive configurations:
// series are leased, and a series that two configurations share counts on.
package telemetry

import (
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"sluice/gateway/stripe"
)

// ContentType is the media type of what [Registry.WriteTo] writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// other stands for the label values that would exceed a bound.
const other = "other"

// A family of histograms with more series than fineHistograms is written with every third bound alone behind the
// first, the decades of DurationBuckets: what 10,000 routes expose stays below 20 MiB. It is decided by the configured series, not by those
// with traffic, so that bounds come and go with reloads alone.
const (
	fineHistograms = 2000
	coarse         = 3
)

// A family with many series has little traffic on most of them, so those beyond this number get few stripes.
const fullyStripedSeries = 1024

// Registry holds the metric families of one gateway and writes them in the Prometheus text format 0.0.4.
//
// Families are declared once, when the process starts; series come and go with the configurations that lease them.
type Registry struct {
	mu        sync.Mutex
	families  []*family // sorted by name
	stripes   int
	maxSeries int
	overflow  *Family[*Counter]
	process   bool
}

// RegistryOptions bound and shape a registry. The zero value is usable.
type RegistryOptions struct {
	// MaxSeries bounds the series of a family that declares no bound of its own; default 20,000.
	MaxSeries int
	// Stripes is the number of cache lines a counter is spread over, a power of two up to 8; default one for each core.
	Stripes int
	// Process adds the families go_* and process_*.
	Process bool
}

// NewRegistry makes an empty registry. It starts nothing.
func NewRegistry(o RegistryOptions) *Registry {
	if o.MaxSeries <= 0 {
		o.MaxSeries = 20_000
	}
	if o.Stripes == 0 {
		o.Stripes = stripe.Count()
	}
	if o.Stripes < 1 || o.Stripes > stripe.Max || o.Stripes&(o.Stripes-1) != 0 {
		panic("BUG: stripes must be a power of two up to 8")
	}
	r := &Registry{stripes: o.Stripes, maxSeries: o.MaxSeries, process: o.Process}
	r.overflow = r.Counter(Desc{
		Name:   "sluice_metrics_overflow_total",
		Help:   "Series asked for beyond the bound of their family and counted as other.",
		Labels: []string{"family"},
	})
	if o.Process {
		r.declareProcess()
	}
	return r
}

// Desc declares a family.
type Desc struct {
	Name   string // counters end in _total
	Help   string
	Labels []string
	// MaxSeries bounds the number of series; default is the registry's. One series more, all labels "other", takes the rest.
	MaxSeries int
}

// Counter declares a family of counters. Like all declarations it panics on a name that is taken or malformed.
func (r *Registry) Counter(d Desc) *Family[*Counter] {
	if !strings.HasSuffix(d.Name, "_total") {
		panic("BUG: counter " + d.Name + " must end in _total")
	}
	return &Family[*Counter]{r.declare(d, "counter", func(stripes int) metric { return newCounter(stripes) })}
}

// Level declares a family of gauges that count events up and down.
func (r *Registry) Level(d Desc) *Family[*Level] {
	return &Family[*Level]{r.declare(d, "gauge", func(stripes int) metric { return newLevel(stripes) })}
}

// Gauge declares a family of gauges that are set.
func (r *Registry) Gauge(d Desc) *Family[*Gauge] {
	return &Family[*Gauge]{r.declare(d, "gauge", func(int) metric { return new(Gauge) })}
}

// GaugeFunc declares a family of gauges that are asked for their value when they are written.
func (r *Registry) GaugeFunc(d Desc) *FuncFamily {
	return &FuncFamily{r.declare(d, "gauge", func(int) metric { return new(callbacks) })}
}

// Histogram declares a family of histograms of durations, exposed in seconds, with the given inclusive upper bounds.
func (r *Registry) Histogram(d Desc, buckets []time.Duration) *Family[*Histogram] {
	shape := newHistogramShape(buckets)
	f := &Family[*Histogram]{r.declare(d, "histogram", func(stripes int) metric { return newHistogram(shape, stripes) })}
	f.family.shape = shape
	return f
}

func (r *Registry) declare(d Desc, kind string, make func(stripes int) metric) *family {
	if !validName(d.Name) || d.Help == "" {
		panic("BUG: family " + d.Name + " needs a valid name and a help text")
	}
	for i, l := range d.Labels {
		if !validName(l) || strings.Contains(l, ":") || l == "le" || l == "quantile" || slices.Contains(d.Labels[:i], l) {
			panic("BUG: family " + d.Name + " cannot have the label " + l)
		}
	}
	if d.MaxSeries <= 0 {
		d.MaxSeries = r.maxSeries
	}
	f := &family{
		reg:    r,
		name:   d.Name,
		header: "# HELP " + d.Name + " " + escape(d.Help, false) + "\n# TYPE " + d.Name + " " + kind + "\n",
		labels: d.Labels,
		max:    d.MaxSeries,
		make:   make,
		series: map[string]*series{},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at, taken := slices.BinarySearchFunc(r.families, f.name, func(have *family, name string) int { return strings.Compare(have.name, name) })
	if taken {
		panic("BUG: family " + d.Name + " is declared twice")
	}
	r.families = slices.Insert(r.families, at, f)
	return f
}

// WriteTo writes all families, sorted by name, each with HELP and TYPE once, and their series sorted by labels. It
// may be called concurrently with everything else and holds no lock while it writes or asks callbacks.
func (r *Registry) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	families := slices.Clone(r.families)
	r.mu.Unlock()
	var process map[string][]byte
	if r.process {
		process = readProcess()
	}
	const chunk = 64 << 10
	buf := make([]byte, 0, chunk+16<<10)
	var written int64
	flush := func() error {
		n, err := w.Write(buf)
		written += int64(n)
		buf = buf[:0]
		return err
	}
	for _, f := range families {
		if f.make == nil {
			if lines := process[f.name]; len(lines) > 0 {
				buf = append(append(buf, f.header...), lines...)
			}
			continue
		}
		buf = append(buf, f.header...)
		all := f.list()
		step := 1
		if len(all) > fineHistograms {
			step = coarse
		}
		for _, s := range all {
			if h, ok := s.metric.(*Histogram); ok {
				buf = h.appendEvery(step, buf, f.name, s.labels)
			} else {
				buf = s.metric.appendTo(buf, f.name, s.labels)
			}
			if len(buf) >= chunk {
				if err := flush(); err != nil {
					return written, err
				}
			}
		}
	}
	return written, flush()
}

// FamilyView is what a family is declared as.
type FamilyView struct {
	Name, Kind string
	Labels     []string
}

// Families lists the families by name.
func (r *Registry) Families() []FamilyView {
	r.mu.Lock()
	defer r.mu.Unlock()
	views := make([]FamilyView, len(r.families))
	for i, f := range r.families {
		_, kind, _ := strings.Cut(f.header, "# TYPE "+f.name+" ")
		views[i] = FamilyView{f.name, strings.TrimSuffix(kind, "\n"), slices.Clone(f.labels)}
	}
	return views
}

// Generation leases series on behalf of one configuration. Close gives them all back; a series that nobody leases any more
// is no longer written, and its number is forgotten.
//
// Open the next generation before closing the last one, and close that once its last exchange has ended: then
// counters run on over a reload, and nothing is counted into the void.
type Generation struct {
	mu     sync.Mutex
	held   []releaser
	closed bool
}

type releaser interface{ release() }

// Begin opens a generation.
func (r *Registry) Begin() *Generation { return new(Generation) }

// Close gives back what the generation leases. Handles stay usable, also those asked for afterwards; they just count unseen
// unless another generation leases the same series. Closing twice does nothing.
func (g *Generation) Close() {
	g.mu.Lock()
	held := g.held
	g.held, g.closed = nil, true
	g.mu.Unlock()
	for _, r := range held {
		r.release()
	}
}

// hold keeps r until Close; a nil generation keeps it for good. A closed one gives it back at once.
func (g *Generation) hold(r releaser) {
	if g == nil {
		return
	}
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.held = append(g.held, r)
	}
	g.mu.Unlock()
	if closed {
		r.release()
	}
}

// Family is a declared family whose series are handles of type M.
type Family[M metric] struct{ family *family }

// With leases the series with these label values, in the order of the declared labels, for g; nil means for as long as the
// process lives. The same values give the same handle. Keep the handle: looking it up is not for the path of a request.
func (f *Family[M]) With(g *Generation, values ...string) M {
	return f.withMade(g, f.family.make, values...)
}

// withMade is With for a series that make makes if it is new.
func (f *Family[M]) withMade(g *Generation, make func(stripes int) metric, values ...string) M {
	s, _ := f.family.acquire(make, values)
	g.hold(s)
	return s.metric.(M)
}

// FuncFamily is a declared family of gauges with callbacks.
type FuncFamily struct{ family *family }

// With leases the series with these label values for g (nil: for good) and lets value answer for it. value is called when metrics are written,
// concurrently with everything, possibly once more while g is being closed. Of several leases on one series the youngest answers.
func (f *FuncFamily) With(g *Generation, value func() float64, values ...string) {
	s, exceeds := f.family.acquire(f.family.make, values)
	if exceeds {
		return // there is no meaning in a sum of states
	}
	cb := &callback{f: value}
	f.family.mu.Lock()
	s.metric.(*callbacks).push(cb)
	f.family.mu.Unlock()
	g.hold(&callbackLease{series: s, callback: cb})
}

type callbackLease struct {
	series   *series
	callback *callback
}

func (l *callbackLease) release() {
	f := l.series.family
	f.mu.Lock()
	l.series.metric.(*callbacks).remove(l.callback)
	f.mu.Unlock()
	l.series.release()
}

type family struct {
	reg    *Registry
	name   string
	header string
	labels []string
	max    int
	make   func(stripes int) metric // nil for the families of the process
	shape  *histogramShape          // of histograms

	mu     sync.Mutex
	series map[string]*series // by rendered labels
	rest   *series            // takes what exceeds max; once made it stays
	sorted []*series          // nil when series changed since; never modified once it is set
}

type series struct {
	family *family
	labels string
	metric metric
	refs   int // guarded by family.mu
}

// acquire takes a reference on the series with these values, or on the one that takes the rest where there are too many.
func (f *family) acquire(make func(stripes int) metric, values []string) (s *series, exceeds bool) {
	if len(values) != len(f.labels) {
		panic("BUG: family " + f.name + " takes the labels " + strings.Join(f.labels, ","))
	}
	key := renderLabels(f.labels, values)
	f.mu.Lock()
	s = f.series[key]
	exceeds = s == nil && len(f.series) >= f.max
	if exceeds {
		s = f.overflow()
	} else if s == nil {
		s = f.add(key, make)
	}
	s.refs++
	f.mu.Unlock()
	if exceeds && f != f.reg.overflow.family {
		f.reg.overflow.With(nil, f.name).Inc()
	}
	return s, exceeds
}

func (f *family) overflow() *series {
	if f.rest == nil {
		values := make([]string, len(f.labels))
		for i := range values {
			values[i] = other
		}
		key := renderLabels(f.labels, values)
		if f.rest = f.series[key]; f.rest == nil {
			f.rest = f.add(key, f.make)
		}
		f.rest.refs++
	}
	return f.rest
}

func (f *family) add(key string, make func(stripes int) metric) *series {
	stripes := f.reg.stripes
	if len(f.series) >= fullyStripedSeries {
		stripes = min(stripes, 2)
	}
	s := &series{family: f, labels: key, metric: make(stripes)}
	f.series[key] = s
	f.sorted = nil
	return s
}

func (s *series) release() {
	f := s.family
	f.mu.Lock()
	defer f.mu.Unlock()
	s.refs--
	if s.refs == 0 {
		delete(f.series, s.labels)
		f.sorted = nil
	}
}

func (f *family) list() []*series {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sorted == nil {
		f.sorted = make([]*series, 0, len(f.series))
		for _, s := range f.series {
			f.sorted = append(f.sorted, s)
		}
		slices.SortFunc(f.sorted, func(a, b *series) int { return strings.Compare(a.labels, b.labels) })
	}
	return f.sorted
}

// renderLabels gives name="value" pairs; it is also the identity of a series, so that values which would
// look the same are the same.
func renderLabels(names, values []string) string {
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(name)
		b.WriteString(`="`)
		b.WriteString(escape(values[i], true))
		b.WriteByte('"')
	}
	return b.String()
}

var (
	labelEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

func escape(s string, label bool) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	if label {
		return labelEscaper.Replace(s)
	}
	return helpEscaper.Replace(s)
}

func validName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == ':'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

package admin

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/ledger"
	"sluice/gateway/policy"
	"sluice/gateway/usage"
)

// usageView is the answer of GET /api/usage.
type usageView struct {
	From time.Time  `json:"from"`
	To   time.Time  `json:"to"`
	Step string     `json:"step"`
	By   []string   `json:"by"`
	Rows []usageRow `json:"rows"`
	// Total is the sum of all rows.
	Total usageRow `json:"total"`
	// Gaps are times for which usage may be missing, because a gateway was killed before it had written what it had counted.
	Gaps []ledger.Gap `json:"gaps"`
	// Waiting says why what was counted last is not in the rows yet.
	Waiting string `json:"waiting,omitempty"`
	// Quotas are what the consumer has used of its quotas now; where one is asked for.
	Quotas []policy.LimitEntry `json:"quotas,omitempty"`
}

type usageRow struct {
	At       time.Time         `json:"at,omitzero"`
	Tenant   *string           `json:"tenant,omitempty"`
	Consumer *string           `json:"consumer,omitempty"`
	Route    *string           `json:"route,omitempty"`
	Version  *string           `json:"version,omitempty"`
	Instance *string           `json:"instance,omitempty"`
	Requests uint64            `json:"requests"`
	ByClass  map[string]uint64 `json:"by_class"`
	Denied   uint64            `json:"denied"`
	BytesIn  uint64            `json:"bytes_in"`
	BytesOut uint64            `json:"bytes_out"`
	Latency  latency           `json:"latency_ms"`
}

// Times that a query of usage may take.
const (
	settleTime = 3 * time.Second
	queryTime  = 30 * time.Second
)

// usageQuery is what the parameters ask for.
type usageQuery struct {
	ledger.Query
	step, format string
}

func (s *Server) listUsage(ctx *fasthttp.RequestCtx) {
	q, err := s.readUsage(ctx)
	if err != nil {
		fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", err.Error())
		return
	}
	l := linkOf(ctx)
	if l != nil {
		q.Consumer, q.Tenant = &l.Consumer, &l.Tenant
		if slices.ContainsFunc(q.By, func(d string) bool { return d != "route" && d != "version" }) {
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "by: rows are told apart by route and version")
			return
		}
	}
	if !operates(ctx) && slices.Contains(q.By, "instance") {
		fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "by: instances are the operator's; rows are told apart by consumer, route and version")
		return
	}
	settling, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	store, late := s.o.Gateway.Usage(settling)
	if store == nil {
		fail(ctx, fasthttp.StatusConflict, "usage_not_kept",
			"usage is kept in state.dir, which is not set, or in PostgreSQL, for which set state.usage; GET /api/top shows the last minutes")
		return
	}
	asking, cancel := context.WithTimeout(context.Background(), queryTime)
	defer cancel()
	rows, err := store.Query(asking, q.Query)
	var gaps []ledger.Gap
	if err == nil {
		gaps, err = store.Gaps(asking, q.From, q.To)
	}
	switch {
	case errors.Is(err, ledger.ErrTooMany):
		fail(ctx, fasthttp.StatusBadRequest, "too_many_rows", err.Error())
		return
	case err != nil:
		fail(ctx, fasthttp.StatusServiceUnavailable, "usage_unavailable", inward(ctx, "the store of usage does not answer", "the store of usage does not answer: "+err.Error()))
		return
	}
	v := usageView{From: q.From, To: q.To, Step: q.step, By: q.By, Rows: make([]usageRow, 0, len(rows)), Gaps: append([]ledger.Gap{}, gaps...)}
	if late != nil {
		v.Waiting = inward(ctx, "the store of usage is late", late.Error())
	}
	if !operates(ctx) {
		for i := range v.Gaps {
			v.Gaps[i].Instance = ""
		}
	}
	sum := &ledger.Usage{}
	for _, r := range rows {
		v.Rows = append(v.Rows, viewUsage(r, q))
		sum.Add(&r.Counts)
		for i, n := range r.Latency {
			sum.Latency[i] += n
		}
	}
	v.Total = viewUsage(sum, &usageQuery{step: "total"})
	if l == nil && q.Consumer != nil && *q.Consumer != "" {
		v.Quotas = s.quotas(*q.Consumer, scope(ctx))
	}
	s.writeUsage(ctx, &v, q.format)
}

// readUsage reads the parameters.
func (s *Server) readUsage(ctx *fasthttp.RequestCtx) (*usageQuery, error) {
	args := ctx.QueryArgs()
	q := &usageQuery{step: "hour", format: "json"}
	q.To = s.now().UTC()
	var from string
	for name, value := range args.All() {
		value := string(value)
		var err error
		switch string(name) {
		case "consumer":
			q.Consumer = &value
		case "route":
			q.Route = &value
		case "version":
			q.Version = &value
		case "tenant":
			q.Tenant = &value
		case "from":
			from = value
		case "to":
			q.To, err = readTime(value)
		case "step":
			q.step = value
		case "by":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" && !slices.Contains(ledger.Dimensions, d) {
					return nil, fmt.Errorf("by: %q is none of %s", d, strings.Join(ledger.Dimensions, ", "))
				}
				q.By = append(q.By, d)
			}
		case "format":
			q.format = value
		default:
			return nil, fmt.Errorf("%s is no parameter; there are consumer, tenant, route, version, from, to, step, by, format", name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if tenant := tenantOf(ctx); tenant != "" {
		q.Tenant = &tenant
	}
	if q.By == nil {
		if q.By = []string{"consumer"}; linkOf(ctx) != nil {
			q.By = []string{"route"}
		}
	}
	q.By = slices.DeleteFunc(q.By, func(d string) bool { return d == "" })
	if q.From = q.To.Add(-24 * time.Hour); from != "" {
		var err error
		if q.From, err = readTime(from); err != nil {
			return nil, fmt.Errorf("from: %w", err)
		}
	}
	// Written as durations are in the configuration, they mean the same.
	steps := map[string]string{"1m": "minute", "1h": "hour", "1d": "day"}
	if named, ok := steps[q.step]; ok {
		q.step = named
	}
	step, ok := map[string]int{"minute": ledger.Minute, "hour": ledger.Hour, "day": ledger.Day, "total": ledger.Total}[q.step]
	switch {
	case !ok:
		return nil, fmt.Errorf("step: %q is none of minute, hour, day, total", q.step)
	case !q.From.Before(q.To):
		return nil, errors.New("from must be before to")
	case q.format != "json" && q.format != "csv" && q.format != "ndjson":
		return nil, fmt.Errorf("format: %q is none of json, csv, ndjson", q.format)
	}
	q.Step = step
	return q, nil
}

// readTime reads 2027-01-15, 2027-01-15T12:00:00Z or seconds since 1970.
func readTime(text string) (time.Time, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && len(text) <= 12 {
		return time.Unix(n, 0).UTC(), nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 2027-01-15, 2027-01-15T12:00:00Z or seconds since 1970", text)
}

func viewUsage(u *ledger.Usage, q *usageQuery) usageRow {
	r := usageRow{
		Requests: u.Requests(), ByClass: make(map[string]uint64), Denied: u.Denied, BytesIn: u.BytesIn, BytesOut: u.BytesOut,
		Latency: latency{usage.Millis(u.Latency.Quantile(0.5)), usage.Millis(u.Latency.Quantile(0.95)), usage.Millis(u.Latency.Quantile(0.99))},
	}
	if q.step != "total" {
		r.At = u.At
	}
	for i, n := range u.Classes {
		if n > 0 {
			r.ByClass[classes[i]] = n
		}
	}
	for _, d := range q.By {
		value := u.Dimension(d)
		*r.dimension(d) = &value
	}
	return r
}

// quotas are what a consumer has used of its quotas.
func (s *Server) quotas(consumer, tenant string) (all []policy.LimitEntry) {
	key := "consumer:" + consumer
	s.o.Gateway.EachLiving(func(_ string, v any) bool {
		i, ok := v.(policy.LimitInspector)
		if !ok {
			return true
		}
		for _, e := range i.Inspect(policy.LimitQuery{Now: s.o.Gateway.Now(), Prefix: key, Tenant: tenant, Most: defaultLimits}) {
			if e.Policy == "quota" && e.Key == key {
				all = append(all, e)
			}
		}
		return true
	})
	return all
}

func (s *Server) writeUsage(ctx *fasthttp.RequestCtx, v *usageView, format string) {
	if format == "json" {
		reply(ctx, v)
		return
	}
	// What these forms have no place for.
	ctx.Response.Header.Set("Sluice-Usage-Gaps", strconv.Itoa(len(v.Gaps)))
	ctx.Response.Header.Set("Sluice-Usage-Waiting", strconv.FormatBool(v.Waiting != ""))
	var b bytes.Buffer
	if format == "ndjson" {
		ctx.SetContentType("application/x-ndjson")
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		for i := range v.Rows {
			if err := e.Encode(&v.Rows[i]); err != nil {
				panic("BUG: " + err.Error())
			}
		}
		ctx.SetBody(b.Bytes())
		return
	}
	ctx.SetContentType("text/csv; charset=utf-8")
	ctx.Response.Header.Set(fasthttp.HeaderContentDisposition, `attachment; filename="usage.csv"`)
	w := csv.NewWriter(&b)
	head := append([]string{"at"}, v.By...)
	head = append(head, "requests", "1xx", "2xx", "3xx", "4xx", "5xx", "other", "denied", "bytes_in", "bytes_out", "p50_ms", "p95_ms", "p99_ms")
	_ = w.Write(head) // what cannot be written shows in Error
	for i := range v.Rows {
		_ = w.Write(v.Rows[i].fields(v.By))
	}
	if w.Flush(); w.Error() != nil {
		panic("BUG: " + w.Error().Error())
	}
	ctx.SetBody(b.Bytes())
}

func (r *usageRow) fields(by []string) []string {
	at := ""
	if !r.At.IsZero() {
		at = r.At.Format(time.RFC3339)
	}
	fields := []string{at}
	for _, d := range by {
		v := **r.dimension(d)
		if strings.ContainsAny(v[:min(1, len(v))], "=+-@\t\r") && v != usage.Unrouted {
			v = "'" + v // no formula, whatever a caller is called
		}
		fields = append(fields, v)
	}
	number := func(n uint64) { fields = append(fields, strconv.FormatUint(n, 10)) }
	number(r.Requests)
	for _, class := range []string{"1xx", "2xx", "3xx", "4xx", "5xx", "other"} {
		number(r.ByClass[class])
	}
	number(r.Denied)
	number(r.BytesIn)
	number(r.BytesOut)
	for _, ms := range []float64{r.Latency.P50, r.Latency.P95, r.Latency.P99} {
		fields = append(fields, strconv.FormatFloat(ms, 'f', -1, 64))
	}
	return fields
}

func (r *usageRow) dimension(name string) **string {
	switch name {
	case "tenant":
		return &r.Tenant
	case "consumer":
		return &r.Consumer
	case "route":
		return &r.Route
	case "version":
		return &r.Version
	}
	return &r.Instance
}

const defaultTop = 20

func (s *Server) top(ctx *fasthttp.RequestCtx) {
	most := defaultTop
	if text := string(ctx.QueryArgs().Peek("max")); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "max must be a whole number from 1 to 1000")
			return
		}
		most = n
	}
	waiting, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	reply(ctx, s.o.Gateway.Top(waiting, most, scope(ctx)))
}

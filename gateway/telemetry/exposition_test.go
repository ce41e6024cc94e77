package telemetry

import (
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// exposition is what a strict reader of the text format 0.0.4 gets out of it.
type exposition struct {
	kinds   map[string]string  // by family
	samples map[string]float64 // by name{labels} as written
}

func scrape(t *testing.T, w io.WriterTo) *exposition {
	t.Helper()
	var b strings.Builder
	n, err := w.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo gave %d, %v for %d bytes", n, err, b.Len())
	}
	e, err := parseExposition(b.String())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *exposition) want(t *testing.T, series string, value float64) {
	t.Helper()
	if have, ok := e.samples[series]; !ok || have != value {
		t.Errorf("%s is %v (present: %v), want %v", series, have, ok, value)
	}
}

func (e *exposition) wantNone(t *testing.T, part string) {
	t.Helper()
	for s := range e.samples {
		if strings.Contains(s, part) {
			t.Errorf("%s should not be there", s)
		}
	}
}

var (
	nameRE   = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	labelRE  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"`)
	numberRE = regexp.MustCompile(`^(?:[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|Inf)|NaN)$`)
	helpRE   = regexp.MustCompile(`^(?:[^\\]|\\\\|\\n)+$`)
)

// parseExposition is stricter than Prometheus: one block a family, sorted, HELP then TYPE then samples, names as
// promtool's linter wants them, complete and consistent histograms.
func parseExposition(text string) (*exposition, error) {
	e := &exposition{kinds: map[string]string{}, samples: map[string]float64{}}
	if !utf8.ValidString(text) || !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("not UTF-8, or the last line has no end")
	}
	type group struct { // one series of a histogram
		les, counts []float64
		sum, count  *float64
	}
	var family, last string
	groups := map[string]*group{}
	expectType := false
	endFamily := func() error {
		for labels, g := range groups {
			if g.sum == nil || g.count == nil || len(g.les) < 2 || !math.IsInf(g.les[len(g.les)-1], 1) ||
				!slices.IsSorted(g.les) || !slices.IsSorted(g.counts) || g.counts[len(g.counts)-1] != *g.count {
				return fmt.Errorf("%s{%s}: incomplete or inconsistent histogram %+v", family, labels, g)
			}
		}
		clear(groups)
		return nil
	}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		bad := func(what string) (*exposition, error) {
			return nil, fmt.Errorf("line %d: %s: %q", i+1, what, line)
		}
		if help, ok := strings.CutPrefix(line, "# HELP "); ok {
			if err := endFamily(); err != nil {
				return nil, err
			}
			name, text, _ := strings.Cut(help, " ")
			if nameRE.FindString(name) != name || !helpRE.MatchString(text) || expectType {
				return bad("bad HELP")
			}
			if name <= last {
				return bad("family repeated or not sorted")
			}
			family, last, expectType = name, name, true
			continue
		}
		if kind, ok := strings.CutPrefix(line, "# TYPE "+family+" "); ok && expectType {
			if !slices.Contains([]string{"counter", "gauge", "histogram", "summary"}, kind) {
				return bad("bad TYPE")
			}
			if (kind == "counter") != strings.HasSuffix(family, "_total") {
				return bad("counters, and they alone, end in _total")
			}
			e.kinds[family], expectType = kind, false
			continue
		}
		if expectType || family == "" || strings.HasPrefix(line, "#") {
			return bad("unexpected line")
		}
		name := nameRE.FindString(line)
		rest := line[len(name):]
		var labels []string
		seen := map[string]string{}
		if strings.HasPrefix(rest, "{") {
			rest = rest[1:]
			for {
				m := labelRE.FindStringSubmatch(rest)
				if m == nil {
					return bad("bad label")
				}
				if _, twice := seen[m[1]]; twice {
					return bad("label twice")
				}
				seen[m[1]] = m[2]
				if m[1] != "le" && m[1] != "quantile" {
					labels = append(labels, m[0])
				}
				rest = rest[len(m[0]):]
				if strings.HasPrefix(rest, "} ") {
					rest = rest[1:]
					break
				}
				if !strings.HasPrefix(rest, ",") {
					return bad("bad end of label")
				}
				rest = rest[1:]
			}
		}
		series := line[:len(line)-len(rest)]
		number, ok := strings.CutPrefix(rest, " ")
		value, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil || !numberRE.MatchString(number) {
			return bad("bad value")
		}
		if _, twice := e.samples[series]; twice {
			return bad("series twice")
		}
		e.samples[series] = value
		suffix, ok := strings.CutPrefix(name, family)
		if !ok {
			return bad("sample of another family")
		}
		switch e.kinds[family] {
		case "counter":
			if suffix != "" || value < 0 {
				return bad("bad counter")
			}
		case "gauge":
			if suffix != "" {
				return bad("bad gauge")
			}
		case "summary":
			if suffix != "" && suffix != "_sum" && suffix != "_count" {
				return bad("bad summary")
			}
		case "histogram":
			key := strings.Join(labels, ",")
			g := groups[key]
			if g == nil {
				g = &group{}
				groups[key] = g
			}
			switch suffix {
			case "_bucket":
				le, err := strconv.ParseFloat(seen["le"], 64)
				if err != nil || g.sum != nil || g.count != nil {
					return bad("bad bucket")
				}
				g.les, g.counts = append(g.les, le), append(g.counts, value)
			case "_sum":
				g.sum = &value
			case "_count":
				g.count = &value
			default:
				return bad("bad histogram")
			}
		}
	}
	return e, endFamily()
}

func TestParseExpositionFailure(t *testing.T) {
	f := func(text string) {
		t.Helper()
		if _, err := parseExposition(text); err == nil {
			t.Errorf("accepted %q", text)
		}
	}
	f("# HELP a_total x\n# TYPE a_total counter\na_total 1")
	f("# HELP a_total x\n# TYPE a_total counter\na_total 1\na_total 2\n")
	f("# HELP a x\n# TYPE a counter\na 1\n")
	f("# HELP a_total x\n# TYPE a_total gauge\na_total 1\n")
	f("# TYPE a gauge\na 1\n")
	f("# HELP a \n# TYPE a gauge\na 1\n")
	f("# HELP b x\n# TYPE b gauge\nb 1\n# HELP a x\n# TYPE a gauge\na 1\n")
	f("# HELP a x\n# TYPE a gauge\na{l=\"\\x\"} 1\n")
	f("# HELP a x\n# TYPE a gauge\na{l=\"1\",l=\"2\"} 1\n")
	f("# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 3\n")
	f("# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 3\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 2\n")
}

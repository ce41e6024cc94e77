package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v4"

	"sluice/gateway/telemetry"
)

// promtool is where the Makefile puts it, or on the path.
func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	program, err := filepath.Abs("../../.bin/promtool")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("promtool"); err != nil {
			t.Fatal("there is no promtool; make tools-test installs it")
		}
	}
	c := exec.CommandContext(t.Context(), program, args...)
	c.Stdin = bytes.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// families are the metrics of a gateway with the labels of each, as they stand in expressions.
func families() map[string][]string {
	all := map[string][]string{"up": nil}
	for _, f := range telemetry.NewMetrics(telemetry.Options{Registry: telemetry.RegistryOptions{Process: true}}).Families() {
		if f.Kind == "histogram" {
			all[f.Name+"_bucket"] = append(slices.Clone(f.Labels), "le")
			all[f.Name+"_sum"], all[f.Name+"_count"] = f.Labels, f.Labels
			continue
		}
		all[f.Name] = f.Labels
	}
	return all
}

var (
	quotedText = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	selector   = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	metricName = regexp.MustCompile(`^(?:up$|sluice_|process_|go_|route:|service:)`)
)

// checkExpression finds metrics and labels of an expression that the gateway does not expose. Labels of the scraping job
// stand on every series.
func checkExpression(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	bare := quotedText.ReplaceAllString(expr, `""`)
	var labels []string
	for _, m := range grouping.FindAllStringSubmatch(bare, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if label = strings.TrimSpace(label); label != "" {
				labels = append(labels, label)
			}
		}
	}
	bare = grouping.ReplaceAllString(bare, "")
	found, metrics := []string{"job", "instance"}, 0
	for _, m := range selector.FindAllStringSubmatch(bare, -1) {
		if !metricName.MatchString(m[1]) {
			continue
		}
		metrics++
		own, ok := known[m[1]]
		if !ok {
			t.Errorf("%s: there is no metric %s", where, m[1])
			continue
		}
		found = append(found, own...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(own, l[1]) && l[1] != "job" && l[1] != "instance" {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	if metrics == 0 {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	for _, l := range labels {
		if !slices.Contains(found, l) {
			t.Errorf("%s: no metric of %s has the label %s", where, expr, l)
		}
	}
}

var labelInText = regexp.MustCompile(`\$labels\.(\w+)`)

// The rules are about what the gateway exposes, Prometheus reads them, and each alert fires when it should.
func TestAlertRules(t *testing.T) {
	name := filepath.Join(deploy, "prometheus", "sluice.rules.yaml")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Record, Alert, Expr string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	known := families()
	alerts := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			checkExpression(t, r.Record+r.Alert, r.Expr, known)
			if r.Record != "" {
				level, _, _ := strings.Cut(r.Record, ":")
				known[r.Record] = []string{level}
				continue
			}
			alerts++
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" {
				t.Errorf("%s: needs a severity and a summary", r.Alert)
			}
			for _, a := range r.Annotations {
				for _, m := range labelInText.FindAllStringSubmatch(a, -1) {
					if grouped := grouping.FindStringSubmatch(r.Expr); grouped != nil && !strings.Contains(grouped[1], m[1]) {
						t.Errorf("%s: the label %s is aggregated away", r.Alert, m[1])
					}
				}
			}
		}
	}
	if alerts < 15 {
		t.Errorf("only %d alerts", alerts)
	}
	promtool(t, nil, "check", "rules", name)
	promtool(t, nil, "test", "rules", filepath.Join(deploy, "prometheus", "sluice.rules.test.yaml"))
}

// The dashboard shows what the gateway exposes, in expressions that Prometheus reads.
func TestDashboardOfGrafana(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(deploy, "grafana", "sluice.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name  string
				Query json.RawMessage
			}
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	known := families()
	var exprs []string
	check := func(where, expr string) {
		checkExpression(t, where, expr, known)
		exprs = append(exprs, expr)
	}
	ids, places := make(map[int]bool), make(map[string]bool)
	for _, p := range board.Panels {
		place := fmt.Sprint(p.GridPos)
		if ids[p.ID] || places[place] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: id or place is taken", p.Title)
		}
		ids[p.ID], places[place] = true, true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
	}
	for _, a := range board.Annotations.List {
		check("annotation", a.Expr)
	}
	for _, v := range board.Templating.List {
		var query struct{ Query string }
		if json.Unmarshal(v.Query, &query) != nil {
			continue // the data source
		}
		series, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(query.Query, "label_values("), ")"), ", ")
		if !ok {
			t.Errorf("variable %s: %s", v.Name, query.Query)
			continue
		}
		check("variable "+v.Name, "max by ("+label+") ("+series+")")
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$route", ".*", "$service", ".*")
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, expr := range exprs {
		fmt.Fprintf(&b, "      - {record: \"panel:%d\", expr: %q}\n", i, variables.Replace(expr))
	}
	promtool(t, nil, "check", "rules", write(t, "dashboard.rules.yaml", b.String()))
}

// What a gateway with traffic exposes has no fault that promtool knows.
func TestMetricsAreWellFormed(t *testing.T) {
	path := write(t, "sluice.yaml", `
listeners: {main: {address: "127.0.0.1:0"}}
admin: {address: "127.0.0.1:0"}
services: {gone: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  hello: {match: {paths: [/hello]}, respond: {status: 200, body: hello}}
  gone: {match: {paths: [/gone]}, service: gone, openapi: `+write(t, "hello.openapi.yaml", document)+`}
  limited:
    match: {paths: [/limited]}
    respond: {status: 200, body: hello}
    policies: {rate_limit: {requests: 1, per: 1h}, api_key: {}, compression: {}, cache: {}, waf: {}, idempotency: {}, tracing: {otlp: {endpoint: "127.0.0.1:1"}}}
`)
	r := launch(t, sluice(t, nil, "run", "-c", path, "--drain-delay", "1ms"))
	for _, path := range []string{"/hello", "/gone", "/limited", "/nowhere", "/hello"} {
		res, err := http.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	code, text := fetch(t, r.admin+"/metrics")
	if code != 200 || !strings.Contains(text, `sluice_requests_total{route="hello"`) {
		t.Fatalf("%d %s", code, text)
	}
	promtool(t, []byte(text), "check", "metrics")
	_ = r.Process.Signal(syscall.SIGINT)
	for r.lines.Scan() {
	}
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}

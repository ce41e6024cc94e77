package admin

import (
	"strings"
	"testing"
)

const divided = `
listeners: {main: {address: "127.0.0.1:0"}}
services: {stable: {endpoints: ["http://127.0.0.1:1"]}, canary: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  shop: {match: {paths: [/shop]}, split: {services: [{service: stable, weight: 95}, {service: canary, weight: 5}]}}
  rolled: {match: {paths: [/rolled]}, split: {services: [{service: stable}, {service: canary}], rollout: {}}}
  plain: {match: {paths: [/plain]}, service: stable}
`

func TestSplit(t *testing.T) {
	w := newWorld(t, divided, nil)
	weights := func(v any) [2]any {
		return [2]any{at(t, v, "services", 0, "weight"), at(t, v, "services", 1, "weight")}
	}
	shop := func() map[string]any { return w.object("GET", "/api/routes/shop/split", "") }
	if v := shop(); weights(v) != [2]any{95.0, 5.0} || at(t, v, "source") != "file" || at(t, v, "services", 1, "share") != 0.05 {
		t.Error(v)
	}
	if v := w.object("PUT", "/api/routes/shop/split", `{"weights": {"stable": 0, "canary": 100}}`); weights(v) != [2]any{0.0, 100.0} || at(t, v, "source") != "admin" {
		t.Error(v)
	}
	if v := w.object("GET", "/api/routes", ""); weights(at(t, v, "routes", 2, "split")) != [2]any{0.0, 100.0} || at(t, v, "routes", 2, "route") != "shop" {
		t.Error(v)
	}
	if text := w.want(200, "GET", "/metrics", ""); !strings.Contains(text, `sluice_split_share{route="shop",service="canary"} 1`+"\n") {
		t.Error(text)
	}
	if !strings.Contains(w.log.String(), `msg=split route=shop services=stable,canary from="[95 5]" to="[0 100]" by=127.0.0.1:`) {
		t.Error(w.log.String())
	}

	// What was set holds until the block in the file is another one, and no reload that fails changes anything.
	w.write(strings.Replace(divided, "paths: [/plain]", "paths: [/other]", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	if v := shop(); weights(v) != [2]any{0.0, 100.0} {
		t.Error(v)
	}
	w.write(strings.Replace(divided, "weight: 5}", "weight: 6}", 1) + "  broken: {}\n")
	if err := w.reload(); err == nil {
		t.Fatal("a route without an action was accepted")
	}
	if v := shop(); weights(v) != [2]any{0.0, 100.0} {
		t.Error(v)
	}
	w.write(strings.Replace(divided, "weight: 5}", "weight: 6}", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	if v := shop(); weights(v) != [2]any{95.0, 6.0} || at(t, v, "source") != "file" {
		t.Error(v)
	}
	w.write(divided)
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	if v := shop(); weights(v) != [2]any{95.0, 5.0} {
		t.Error("the file's weights came back, and those that were set by hand under them as well:", v)
	}
	if text := w.want(200, "GET", "/metrics", ""); !strings.Contains(text, `sluice_split_share{route="shop",service="canary"} 0.05`+"\n") {
		t.Error(text)
	}

	w.want(404, "PUT", "/api/routes/shops/split", `{"switch": "canary"}`)
	w.want(409, "PUT", "/api/routes/plain/split", `{"switch": "canary"}`)
	w.want(409, "GET", "/api/routes/plain/split", "")
	w.want(400, "PUT", "/api/routes/shop/split", `{"switch": "beta"}`)
	w.want(400, "PUT", "/api/routes/shop/split", `{"weights": {"stable": 0, "canary": 0}}`)
	w.want(400, "PUT", "/api/routes/shop/split", `weights`)
	w.want(409, "PUT", "/api/routes/shop/split", `{"rollout": "pause"}`)
	w.want(405, "DELETE", "/api/routes/shop/split", "")
}

func TestSplitIfMatch(t *testing.T) {
	w := newWorld(t, divided, nil)
	res, _ := w.ask("GET", "/api/routes/shop/split", "")
	first := res.Header.Get("ETag")
	w.want(412, "PUT", "/api/routes/shop/split", `{"switch": "canary"}`, "If-Match", `"other"`)
	w.want(200, "PUT", "/api/routes/shop/split", `{"switch": "canary"}`, "If-Match", `"other", `+first)
	w.want(412, "PUT", "/api/routes/shop/split", `{"switch": "stable"}`, "If-Match", first)
	w.want(200, "PUT", "/api/routes/shop/split", `{"switch": "stable"}`, "If-Match", "*")
	w.want(200, "PUT", "/api/routes/shop/split", `{"switch": "canary"}`)
	if res, _ := w.ask("GET", "/api/routes/rolled/split", ""); res.Header.Get("ETag") == first || first == "" {
		t.Error("two splits share an ETag")
	}
}

func TestRollout(t *testing.T) {
	w := newWorld(t, divided, nil)
	f := func(word, state string, step, canary float64) {
		t.Helper()
		v := w.object("PUT", "/api/routes/rolled/split", `{"rollout": "`+word+`"}`)
		if at(t, v, "rollout", "state") != state || at(t, v, "rollout", "step") != step || at(t, v, "services", 1, "weight") != canary {
			t.Errorf("%s: %v", word, v)
		}
	}
	f("pause", "paused", 1, 5)
	f("advance", "paused", 2, 20)
	// States outlive reloads.
	w.write(strings.Replace(divided, "paths: [/plain]", "paths: [/other]", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	if v := w.object("GET", "/api/routes/rolled/split", ""); at(t, v, "rollout", "state") != "paused" || at(t, v, "rollout", "step") != 2.0 {
		t.Error(v)
	}
	f("resume", "running", 2, 20)
	f("abort", "aborted", 0, 0)
	w.want(409, "PUT", "/api/routes/rolled/split", `{"rollout": "resume"}`)
	w.want(400, "PUT", "/api/routes/rolled/split", `{"rollout": "on"}`)
	f("restart", "running", 1, 5)
	text := w.want(200, "GET", "/metrics", "")
	for _, want := range []string{
		`sluice_rollout_step{route="rolled"} 1`, `sluice_rollout_state{route="rolled"} 0`, `sluice_rollout_transitions_total{route="rolled",to="started"} 2`,
		`sluice_rollout_transitions_total{route="rolled",to="rolled_back"} 0`, `sluice_rollout_transitions_total{route="rolled",to="aborted"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

package split

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/gateway/action/actiontest"
)

const (
	keptRollout = "{services: [{service: stable}, {service: canary}], rollout: {steps: [5, 20, 100], every: 20s, window: 10s}}"
	keptPlain   = "{services: [{service: stable, weight: 95}, {service: canary, weight: 5}]}"
)

// process is a gateway that begins with what an earlier one has left in dir.
func process(t *testing.T, dir, settings string) *trial {
	t.Helper()
	configuration := services
	if dir != "" {
		configuration += "state: {dir: " + dir + "}\n"
	}
	w := actiontest.New(t, configuration)
	a := w.MustBuild(t, Definition, settings)
	r := &trial{T: t, w: w, a: a, State: a.Live.(*State)}
	a.Start()
	return r
}

func TestRolloutOutlivesTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first := process(t, dir, keptRollout)
	first.is("running", 1, "[95 5]")
	first.says(`{"rollout": "advance"}`, "")
	first.is("running", 2, "[80 20]")
	first.a.Stop()

	second := process(t, dir, keptRollout)
	second.is("running", 2, "[80 20]")
	if log := second.w.Logged(); !strings.Contains(log, "event=restored") || strings.Contains(log, "event=started") {
		t.Error(log)
	}
	// The step is watched for its whole time again, and goes on.
	second.window(1000, 0, 200, 0, 0)
	second.is("running", 2, "[80 20]")
	second.window(1000, 0, 200, 0, 0)
	second.is("running", 3, "[0 100]")
	second.says(`{"rollout": "pause"}`, "")
	second.a.Stop()

	third := process(t, dir, keptRollout)
	third.is("paused", 3, "[0 100]")
	third.window(1000, 0, 200, 100, 0)
	third.is("rolled_back", 0, "[100 0]")
	third.a.Stop()

	// What was bad is not released by a restart.
	fourth := process(t, dir, keptRollout)
	fourth.is("rolled_back", 0, "[100 0]")
	if v, _ := fourth.Look(); !strings.HasPrefix(v.Rollout.Reason, "errors: 50.00%") {
		t.Errorf("%+v", v.Rollout)
	}
	fourth.says(`{"rollout": "restart"}`, "")
	fourth.is("running", 1, "[95 5]")
	fourth.says(`{"rollout": "advance"}`, "")
	fourth.a.Stop()

	// A block that was changed begins as it says, and without a folder nothing is known.
	changed := process(t, dir, strings.Replace(keptRollout, "20, 100", "30, 100", 1))
	changed.is("running", 1, "[95 5]")
	changed.a.Stop()
	back := process(t, dir, keptRollout)
	back.is("running", 1, "[95 5]") // the other block was in force since
	back.a.Stop()
	without := process(t, "", keptRollout)
	without.is("running", 1, "[95 5]")
	without.a.Stop()
}

func TestWeightsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	f := func(settings, want, source string) *trial {
		t.Helper()
		r := process(t, dir, settings)
		if v, _ := r.Look(); r.table.Load().String() != want || v.Source != source {
			t.Errorf("%s by %s, want %s by %s", r.table.Load(), v.Source, want, source)
		}
		return r
	}
	r := f(keptPlain, "[95 5]", "file")
	r.says(`{"switch": "canary"}`, "")
	r.a.Stop()
	f(keptPlain, "[0 100]", "admin").a.Stop()
	f(strings.Replace(keptPlain, "95", "90", 1), "[90 5]", "file").a.Stop()
	f(keptPlain, "[95 5]", "file").a.Stop() // and not what was switched before the block was another one
}

// What can not be read is said, and the gateway serves.
func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	f := func(content, mistake string) {
		t.Helper()
		block := process(t, dir, keptRollout)
		block.a.Stop()
		content = strings.ReplaceAll(content, "BLOCK", block.block)
		if err := os.WriteFile(block.file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r := process(t, dir, keptRollout)
		r.is("running", 1, "[95 5]")
		if log := r.w.Logged(); !strings.Contains(log, "can not be read") || !strings.Contains(log, mistake) {
			t.Errorf("%s: %s", content, log)
		}
		r.a.Stop()
	}
	f(`{"block":`, "unexpected end")
	f(`{"block": "BLOCK", "weights": [1], "state": "running"}`, "its weights are [1]")
	f(`{"block": "BLOCK", "weights": [0, 0], "state": "running"}`, "its weights are [0 0]")
	f(`{"block": "BLOCK", "weights": [-1, 2], "state": "running"}`, "a weight is -1")
	f(`{"block": "BLOCK", "weights": [1, 2], "state": "flying"}`, `\"flying\" in step 0`)
	f(`{"block": "BLOCK", "weights": [1, 2], "state": "running", "step": 3}`, `in step 3`)
}

// A folder that can not be written to is said, and the split goes on.
func TestUnwritableState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := process(t, dir, keptRollout)
	defer r.a.Stop()
	r.says(`{"rollout": "advance"}`, "")
	r.is("running", 2, "[80 20]")
	if log := r.w.Logged(); !strings.Contains(log, "cannot write where a split is") {
		t.Error(log)
	}
}

package kong_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sluice/config"
	"sluice/config/kong"
)

var update = flag.Bool("update", false, "write what the translation gives as the golden files")

var environ = []string{
	"BACKEND_HOST=backend.test", "DECK_URL=http://deck.test:8080", "ALICE_SECRET=a-secret-of-more-than-twenty-bytes",
	"SLUICE_JWT_SECRET=a-secret-of-at-least-thirty-two-bytes",
}

// translate returns the native configuration of a file as it is written down.
func translate(t *testing.T, file string, o kong.Options) (native []byte, c *config.Config, err error) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	translator := kong.Translator(o)
	c, err = config.Parse(filepath.Base(file), text, config.Options{Environ: environ, Kong: func(file config.Tree, env func(string) (string, bool)) (config.Tree, config.Errors, config.Errors) {
		tree, remarks, errs := translator(file, env)
		if len(errs) == 0 {
			native = tree.YAML()
		}
		return tree, remarks, errs
	}})
	return native, c, err
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(all) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	return all
}

// golden compares with a file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", file, got, want)
	}
}

func valid(t *testing.T) []string {
	return slices.DeleteFunc(files(t, "*.kong.yml"), func(f string) bool { return strings.HasPrefix(filepath.Base(f), "invalid-") })
}

func TestTranslationsAreTheGoldenOnes(t *testing.T) {
	all := valid(t)
	if len(all) < 60 {
		t.Errorf("%d pairs, want at least 60", len(all))
	}
	for _, file := range all {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".kong.yml"), func(t *testing.T) {
			native, c, err := translate(t, file, kong.Options{Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".kong.yml")+".native.yaml", native)

			// Written down and read again it is the same configuration.
			again, err := config.Parse("native.yaml", native, config.Options{Environ: environ})
			if err != nil {
				t.Fatalf("the native configuration is not valid: %v\n%s", err, native)
			}
			if a, b := string(c.Tree().YAML()), string(again.Tree().YAML()); a != b {
				t.Errorf("read again it is another one:\n%s\nwas\n%s", b, a)
			}
		})
	}
}

func TestMistakesHaveTheirPlaces(t *testing.T) {
	for _, file := range files(t, "invalid-*.kong.yml") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".kong.yml"), func(t *testing.T) {
			_, _, err := translate(t, file, kong.Options{})
			if err == nil {
				t.Fatal("no error")
			}
			golden(t, strings.TrimSuffix(file, ".kong.yml")+".errors", []byte(err.Error()+"\n"))
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, filepath.Base(file)+":") {
					t.Errorf("an error without a place: %s", line)
				}
			}
		})
	}
}

// A plugin that can not be honoured is left out where that is wanted, and every other mistake stays one.
func TestUnknownPluginsCanBeLeftOut(t *testing.T) {
	f := func(file string, remarks int, want ...string) {
		t.Helper()
		native, c, err := translate(t, filepath.Join("testdata", file), kong.Options{Warn: true})
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(c.Remarks()) != remarks || len(native) == 0 {
			t.Errorf("%s: %d remarks, want %d: %v", file, len(c.Remarks()), remarks, c.Remarks())
		}
		for _, w := range want {
			if !strings.Contains(c.Remarks().Error(), w) {
				t.Errorf("%s: the remarks do not say %q: %v", file, w, c.Remarks())
			}
		}
	}
	f("invalid-unknown-plugin.kong.yml", 1, "the plugin my-own-plugin of every request", "runs without it")
	f("invalid-enterprise-plugin.kong.yml", 1, `the plugin rate-limiting-advanced of service "users"`)
	f("invalid-refused-plugin.kong.yml", 3, "oauth2", "session", "statsd", "can not be honoured")

	if _, _, err := translate(t, "testdata/invalid-fields.kong.yml", kong.Options{Warn: true}); err == nil {
		t.Error("mistakes pass where unknown plugins are left out")
	}
}

func TestWithoutAnyKeyTokensAreRefusedAndItIsSaid(t *testing.T) {
	text, err := os.ReadFile("testdata/jwt-environment.kong.yml")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(environ ...string) *config.Config {
		t.Helper()
		c, err := config.Parse("kong.yml", text, config.Options{Environ: environ, Kong: kong.Translator(kong.Options{})})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := parse(); len(c.Remarks()) != 1 || !strings.Contains(c.Remarks().Error(), "SLUICE_JWT_SECRET") {
		t.Errorf("remarks: %v", c.Remarks())
	}
	if c := parse("SLUICE_JWT_SECRET=a-secret-of-at-least-thirty-two-bytes"); len(c.Remarks()) != 0 || !strings.Contains(string(c.Policies["jwt"].Canonical()), `"secret":"a-secret`) {
		t.Errorf("remarks: %v; %s", c.Remarks(), c.Policies["jwt"].Canonical())
	}
	if c := parse("SLUICE_JWT_JWKS_URL=https://login.example.com/keys"); !strings.Contains(string(c.Policies["jwt"].Canonical()), "jwks_url") {
		t.Errorf("%s", c.Policies["jwt"].Canonical())
	}
}

func TestEveryFieldIsReported(t *testing.T) {
	var notes []kong.Note
	if _, _, err := translate(t, "../examples/kong.yml", kong.Options{Keep: true, Notes: &notes}); err != nil {
		t.Fatal(err)
	}
	fates := map[string]string{}
	for _, n := range notes {
		if n.Pos.Line == 0 {
			t.Errorf("%s has no place", n.Path)
		}
		fates[n.Path] = n.Fate
	}
	f := func(path, fate string) {
		t.Helper()
		if fates[path] != fate {
			t.Errorf("%s is %q, want %q", path, fates[path], fate)
		}
	}
	f("services[0].name", "kept")
	f("services[0].url", "mapped")
	f("services[0].routes[0].paths", "kept")
	f("services[0].plugins[0].config.minute", "mapped")
	f("services[2].plugins[0].config.cache_ttl", "mapped")
	f("plugins[1].name", "mapped")
	for i, n := range notes {
		if slices.ContainsFunc(notes[:i], func(o kong.Note) bool { return o.Path == n.Path }) {
			t.Errorf("%s is reported twice", n.Path)
		}
	}

	// Where native matching would choose another route.
	notes = nil
	if _, _, err := translate(t, "testdata/route-priorities.kong.yml", kong.Options{Notes: &notes}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"takes /r-suffix too", `goes before the longer /r/long of route "long"`, `a pattern goes before the prefix /r/long of route "long"`} {
		if !slices.ContainsFunc(notes, func(n kong.Note) bool { return strings.Contains(n.Message, want) && n.Pos.Line > 0 }) {
			t.Errorf("no note says %q", want)
		}
	}

	notes = nil
	if _, _, err := translate(t, "testdata/invalid-refused-plugin.kong.yml", kong.Options{Notes: &notes}); err == nil {
		t.Fatal("no error")
	}
	if !slices.ContainsFunc(notes, func(n kong.Note) bool { return n.Fate == "not supported" && n.Path == "plugins[0].name" }) {
		t.Errorf("a plugin that is refused is not reported: %v", notes)
	}
}

// The matrix in the README is the one that the tables give.
func TestTheMatrixIsUpToDate(t *testing.T) {
	if got := kong.Readme(); *update {
		if err := os.WriteFile("README.md", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if have, err := os.ReadFile("README.md"); err != nil || string(have) != got {
		t.Error("README.md is not what the tables of fields say; make generate writes it")
	}
}

// Nothing of what anybody writes into a file may break the translation.
func FuzzTranslate(f *testing.F) {
	for _, pattern := range []string{"testdata/*.kong.yml", "../examples/kong.yml"} {
		all, _ := filepath.Glob(pattern)
		for _, file := range all {
			if text, err := os.ReadFile(file); err == nil {
				f.Add(text)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var native []byte
		translator := kong.Translator(kong.Options{Keep: true})
		_, err := config.Parse("kong.yml", text, config.Options{Kong: func(file config.Tree, env func(string) (string, bool)) (config.Tree, config.Errors, config.Errors) {
			tree, remarks, errs := translator(file, env)
			if len(errs) == 0 {
				native = tree.YAML()
			}
			return tree, remarks, errs
		}})
		if err == nil && native != nil {
			if _, err := config.Parse("native.yaml", native, config.Options{Environ: []string{"SLUICE_JWT_SECRET=x"}}); err != nil {
				t.Errorf("what was translated can not be read: %v\n%s", err, native)
			}
		}
	})
}

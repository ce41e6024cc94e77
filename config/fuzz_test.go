package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: whatever stands in a file, Parse returns, and either the configuration can be
// shown or every error has a position.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/errors/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			if len(data) < 8<<10 && filepath.Base(name) != "bomb.yaml" {
				f.Add(data)
			}
		}
	}
	f.Add([]byte(minimal))
	f.Add([]byte(`{"routes": {"a": {"respond": {"body": "${x}"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("fuzz.yaml", data, Options{Environ: []string{"JWT_SECRET=x", "SLUICE_SET__LIMITS__IDLE_TIMEOUT=1s"}})
		if err == nil {
			if _, err := json.Marshal(c.View()); err != nil {
				t.Fatal(err)
			}
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("%T: %v", err, err)
		}
		for _, e := range errs {
			if e.Pos.File == "" || e.Message == "" || e.Pos.File == "fuzz.yaml" && (e.Pos.Line < 1 || e.Pos.Column < 1) {
				t.Fatalf("no position: %#v", e)
			}
		}
	})
}

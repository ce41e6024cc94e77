package config

import (
	"encoding/json"
	"testing"
)

func TestLoadFull(t *testing.T) {
	c, err := Load("testdata/full.yaml", Options{Environ: []string{"JWT_SECRET=s3cret"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(c.View()); err != nil {
		t.Fatal(err)
	}
}

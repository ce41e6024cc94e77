package openapi

import (
	"bytes"
	"encoding/json"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// What is read as JSON is what every other reader reads.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e3,{"b":null}],"c":"\u00e4"}`, `[]`, `{"a":1,"a":2}`, `[1,]`, `{"a"}`, `"x" 1`, `[[[[`, `1e999`, `{"a":{"a":{"a":[]}}}`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		value, fault := decodeJSON(body)
		if fault != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil || !json.Valid(body) || !reflect.DeepEqual(value, want) {
			t.Fatalf("%q: got %v, want %v, %v", body, value, want, err)
		}
	})
}

// A query is read as net/url reads it, or not at all.
func FuzzParseQuery(f *testing.F) {
	for _, seed := range []string{"a=b&c", "a=%41&a=+", "%zz", "a;b=c", "&&=", "a[b]=c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := make(url.Values)
		if parseQuery(got, text, "query") != nil || strings.Contains(text, ";") {
			return
		}
		if want, err := url.ParseQuery(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %v, want %v, %v", text, got, want, err)
		}
	})
}

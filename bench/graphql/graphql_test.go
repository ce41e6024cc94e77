//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	var all strings.Builder
	for i := range least {
		fmt.Fprintf(&all, `{"id":"A%d","name":"MUST work","status":"ok"}`+"\n", i)
	}
	f := func(text, want string) {
		t.Helper()
		found, err := parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		err = verdict(&out, found)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
		if !strings.Contains(out.String(), "of "+fmt.Sprint(len(found))+" requirements are met: ") {
			t.Error(out.String())
		}
	}
	f(all.String(), "")
	f(all.String()+`{"id":"B","name":"MAY use 400","status":"notice","reason":"it is 200"}`, "")
	f(all.String()+`{"id":"B","name":"SHOULD use 400","status":"warn","reason":"it is 200"}{"id":"C","name":"MUST use 200","status":"error"}`, "not met: B, C")
	f(`{"id":"B","name":"MUST use 200","status":"ok"}`, "only looked at 1")
	f("", "only looked at 0")
	if _, err := parse([]byte("no JSON")); err == nil {
		t.Error("what is no JSON is read")
	}
}

package document

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	f := func(src string, line, column int, want string) {
		t.Helper()
		_, err := Check([]byte(src))
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", src, err)
			}
			if !json.Valid([]byte(src)) {
				t.Errorf("%q is wrong", src)
			}
			return
		}
		var s *SyntaxError
		if !errors.As(err, &s) || s.Line != line || s.Column != column || !strings.Contains(s.Message, want) {
			t.Errorf("%q: %v, want line %d, column %d: %s", src, err, line, column, want)
		}
	}
	for _, good := range []string{`{}`, ` [ ] `, `0`, `-0.5e+10`, `1E9`, `"\u00e9\n\\"`, `"é"`, `true`, "\n{\"a\" : [1 , {}], \"b\":null}\r\n", `"\ud800"`} {
		f(good, 0, 0, "")
	}
	f(``, 1, 1, "ends early")
	f(`{`, 1, 2, "ends early")
	f(`{"a"}`, 1, 5, "a colon")
	f("{\"a\":1,\n }", 2, 2, "a name")
	f(`[1,]`, 1, 4, "a value")
	f(`[1 2]`, 1, 4, "a comma")
	f(`{"a":1 "b":2}`, 1, 8, "a comma")
	f(`{a:1}`, 1, 2, "a name")
	f(`01`, 1, 2, "more behind")
	f(`-`, 1, 2, "ends early")
	f(`1.x`, 1, 3, "a digit")
	f(`1e+`, 1, 4, "ends early")
	f(`+1`, 1, 1, "a value")
	f(`nul`, 1, 4, "ends early")
	f(`"a`, 1, 3, "ends early")
	f("\"a\nb\"", 1, 3, "a control character")
	f(`"\x"`, 1, 3, "an escape")
	f(`"\u12g4"`, 1, 6, "an escape")
	f("\"\xff\"", 1, 2, "UTF-8")
	f("\xef\xbb\xbf{}", 1, 1, "a value")
	f(`{} {}`, 1, 4, "more behind")
	f(strings.Repeat("[", MaxDepth+2), 1, MaxDepth+2, "too deep")
	f(strings.Repeat(`{"a":`, 100_000), 1, 5*(MaxDepth+1)+1, "too deep")
}

// Readers differ in which of several members of one name they take, so what is
// removed or replaced is so in all.
func TestRepeatedNames(t *testing.T) {
	f := func(src string, change func(*Value) int, want string) {
		t.Helper()
		v, err := Check([]byte(src))
		if err != nil {
			t.Fatal(err)
		}
		change(v)
		if got := string(v.Append(nil)); got != want {
			t.Errorf("%s: %s, want %s", src, got, want)
		}
	}
	removing := func(p string) func(*Value) int {
		return func(v *Value) int { return v.Remove(path(t, p), false) }
	}
	f(`{"a":1,"b":2,"\u0061":3}`, removing("a"), `{"b":2}`)
	f(`{"u":{"admin":1},"u":{"x":2}}`, removing("u.admin"), `{"u":{},"u":{"x":2}}`)
	f(`{"u":{"x":2},"u":{"admin":1}}`, removing("u.admin"), `{"u":{"x":2},"u":{}}`)
	f(`{"u":[{"p":1}],"u":[{"p":2},{}]}`, removing("u[*].p"), `{"u":[{}],"u":[{},{}]}`)
	f(`{"u":{"a":1},"u":{"a":2}}`, func(v *Value) int { return v.Replace(path(t, "u.a"), []byte("0")) }, `{"u":{"a":0},"u":{"a":0}}`)
	f(`{"a":1,"a":2}`, func(v *Value) int { return v.Replace(path(t, "a"), []byte("0")) }, `{"a":0,"a":0}`)
}

func FuzzCheck(f *testing.F) {
	for _, src := range []string{`{"a":[1,{"b":"\u0061"}]}`, `[ ]`, `"\ud800"`, `{"a":1,"a":2}`, "-0.5e1"} {
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		v, err := Check(src)
		if err != nil {
			return
		}
		if !json.Valid(src) {
			t.Fatalf("%q is no JSON", src)
		}
		for range v.All() {
			continue
		}
	})
}

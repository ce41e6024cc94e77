package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func parse(t testing.TB, text string) *Value {
	t.Helper()
	v, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func path(t testing.TB, text string) Path {
	t.Helper()
	p, err := ParsePath(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPathSuccess(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := path(t, text).String(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if again := path(t, want); !again.Equal(path(t, text)) {
			t.Errorf("%s is read back as %s", want, again)
		}
	}
	f("a", "a")
	f("a.b_c-d.e", "a.b_c-d.e")
	f("$", "$")
	f("$.a", "a")
	f("$[*].a", "[*].a")
	f("items[*].price", "items[*].price")
	f("items[0][12]", "items[0][12]")
	f(`["a.b"].c["d\"e"]`, `["a.b"].c["d\"e"]`)
	f("größe.x", "größe.x")
}

func TestPathFailure(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if _, err := ParsePath(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	f("", "is empty")
	f(".a", "begins with a dot")
	f("a..b", "has an empty name")
	f("a.", "has an empty name")
	f("a.*", "a * outside of brackets")
	f("a[", "[ without ]")
	f("a[]", "neither an index")
	f("a[-1]", "neither an index")
	f("a[01]", "neither an index")
	f("a[x]", "neither an index")
	f(`a["x]`, "quote without an end")
	f(`a["x"`, "[ without ]")
	f("a]b", "brackets or quotes")
	f("a[0]b", "has no dot before")
	f(strings.Repeat("a.", 40)+"a", "more than 32 steps")
}

func TestScope(t *testing.T) {
	f := func(a, b, want string) {
		t.Helper()
		scope, rests, err := Scope(path(t, a), path(t, b))
		got := fmt.Sprint(scope, rests)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s, %s: %s, want %s", a, b, got, want)
		}
	}
	f("a.b", "c", "$ [a.b c]")
	f("x[*].a", "x[*].b.c", "x[*] [a b.c]")
	f("x[*].y[*].a", "x[*].y[*].b", "x[*].y[*] [a b]")
	f("x[*].a", "b", "error")
	f("a", "x[*].b", "error")
	f("x[*].a", "y[*].a", "error")
}

func TestParseFailure(t *testing.T) {
	for _, text := range []string{"", " ", "{", `{"a":}`, "[1,]", "{} {}", "01", `"`, "nul", "{\"a\":1}x"} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// What nobody changes is written as it was.
func TestUntouchedStaysAsWritten(t *testing.T) {
	text := "{ \"a\" : 1.0e+2 ,\t\"\\u0062\":[ 12345678901234567890 , -0 ],\n\"c\":\"\\u00e9\\/\" }"
	v := parse(t, " "+text+"\n")
	v.Get(path(t, "b[0]"))
	if v.Remove(path(t, "x"), true) != 0 || v.Changed() || string(v.Append(nil)) != text {
		t.Errorf("%s", v.Append(nil))
	}
	v.Set(path(t, "d"), []byte(" 7 "))
	if got, want := string(v.Append(nil)), `{"a":1.0e+2,"\u0062":[ 12345678901234567890 , -0 ],"c":"\u00e9\/","d":7}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestChanges(t *testing.T) {
	f := func(document string, change func(*Value) int, places int, want string) {
		t.Helper()
		v := parse(t, document)
		if n := change(v); n != places || string(v.Append(nil)) != want || !json.Valid(v.Text()) || v.Changed() != (places > 0) {
			t.Errorf("%s: %d places, %s, want %d, %s", document, n, v.Append(nil), places, want)
		}
	}
	set := func(p, text string) func(*Value) int {
		return func(v *Value) int { return v.Set(path(t, p), []byte(text)) }
	}
	add := func(p, text string) func(*Value) int {
		return func(v *Value) int { return v.Add(path(t, p), []byte(text)) }
	}
	replace := func(p, text string) func(*Value) int {
		return func(v *Value) int { return v.Replace(path(t, p), []byte(text)) }
	}
	push := func(p, text string) func(*Value) int {
		return func(v *Value) int { return v.Push(path(t, p), []byte(text)) }
	}
	remove := func(p string, prune bool) func(*Value) int {
		return func(v *Value) int { return v.Remove(path(t, p), prune) }
	}
	rename := func(p, name string) func(*Value) int {
		return func(v *Value) int { return v.Rename(path(t, p), name) }
	}
	move := func(from, to string) func(*Value) int {
		return func(v *Value) int { return v.Move(path(t, from), path(t, to)) }
	}

	f(`{"a":1}`, set("a", "2"), 1, `{"a":2}`)
	f(`{"a":1}`, set("b.c", `"x"`), 1, `{"a":1,"b":{"c":"x"}}`)
	f(`{"a":1}`, set("a.b", "2"), 0, `{"a":1}`)
	f(`{"a":null}`, set("a.b", "2"), 0, `{"a":null}`)
	f(`{"a":[{},{"b":1},3]}`, set("a[*].b", "2"), 2, `{"a":[{"b":2},{"b":2},3]}`)
	f(`{"a":[1,2]}`, set("a[1]", "7"), 1, `{"a":[1,7]}`)
	f(`{"a":[1,2]}`, set("a[2]", "7"), 0, `{"a":[1,2]}`)
	f(`{}`, set("a[0]", "7"), 0, `{}`)
	f(`{}`, set("$", "7"), 1, `7`)
	f(`{"x":{"p":{},"q":{"b":1}}}`, set("x[*].b", "2"), 2, `{"x":{"p":{"b":2},"q":{"b":2}}}`)
	f(`{"a":1,"b":0,"a":2}`, set("a", "3"), 1, `{"b":0,"a":3}`)
	f(`{"\u0061":1}`, set("a", "3"), 1, `{"\u0061":3}`)

	f(`{"a":1}`, add("a", "2"), 0, `{"a":1}`)
	f(`{"a":null}`, add("a", "2"), 0, `{"a":null}`)
	f(`{}`, add("a", "2"), 1, `{"a":2}`)
	f(`[{"a":1},{}]`, add("[*].a", "2"), 1, `[{"a":1},{"a":2}]`)
	f(`{}`, replace("a", "2"), 0, `{}`)
	f(`{"a":1}`, replace("a", "2"), 1, `{"a":2}`)

	f(`{"a":[1]}`, push("a", "2"), 1, `{"a":[1,2]}`)
	f(`{}`, push("a", "2"), 1, `{"a":[2]}`)
	f(`{"a":1}`, push("a", "2"), 0, `{"a":1}`)

	f(`{"a":1,"b":2}`, remove("a", false), 1, `{"b":2}`)
	f(`{"a":1,"b":2,"a":3}`, remove("a", false), 1, `{"b":2}`)
	f(`{"a":{"b":{"c":1}},"d":2}`, remove("a.b.c", false), 1, `{"a":{"b":{}},"d":2}`)
	f(`{"a":{"b":{"c":1}},"d":2}`, remove("a.b.c", true), 1, `{"d":2}`)
	f(`{"a":{"b":{}},"d":2}`, remove("a.b.c", true), 0, `{"a":{"b":{}},"d":2}`)
	f(`{"a":[1,2,3]}`, remove("a[1]", false), 1, `{"a":[1,3]}`)
	f(`{"a":[{"b":1},{"c":2}]}`, remove("a[*].b", true), 1, `{"a":[{},{"c":2}]}`)
	f(`[1,2]`, remove("[*]", false), 2, `[]`)

	f(`{"a":1,"b":2}`, rename("a", "c"), 1, `{"c":1,"b":2}`)
	f(`{"a":1,"b":2}`, rename("a", "b"), 1, `{"b":1}`)
	f(`{"b":2,"a":1}`, rename("a", "b"), 1, `{"b":1}`)
	f(`{"a":1,"b":2,"a":3}`, rename("a", "c"), 1, `{"b":2,"c":3}`)
	f(`{"x":[{"a":1},{"b":2}]}`, rename("x[*].a", "c"), 1, `{"x":[{"c":1},{"b":2}]}`)
	f(`{"a":{"b":1}}`, rename("a.b", `q"`), 1, `{"a":{"q\"":1}}`)
	f(`{}`, rename("a", "c"), 0, `{}`)

	f(`{"a":{"b":1,"c":2}}`, move("a.b", "d"), 1, `{"a":{"c":2},"d":1}`)
	f(`{"a":{"b":1}}`, move("a.b", "d.e"), 1, `{"d":{"e":1}}`)
	f(`{"a":{"b":1},"z":0}`, move("a.b", "a.c"), 1, `{"a":{"c":1},"z":0}`)
	f(`{"a":1,"z":0}`, move("a", "a.b.c"), 1, `{"a":{"b":{"c":1}},"z":0}`)
	f(`{"a":{"b":{"c":1}},"z":0}`, move("a.b.c", "a"), 1, `{"a":1,"z":0}`)
	f(`{"a":1,"d":2}`, move("a", "d.e"), 0, `{"a":1,"d":2}`)
	f(`{"x":[{"a":1},{"a":2},{}]}`, move("x[*].a", "x[*].b.c"), 2, `{"x":[{"b":{"c":1}},{"b":{"c":2}},{}]}`)
	f(`{"a":[1]}`, move("a", "a[0]"), 0, `{"a":[1]}`)
	f(`3`, move("a", "b"), 0, `3`)
	f(`{"data":{"a":1},"meta":2}`, move("data", "$"), 1, `{"a":1}`)
	f(` {"a":1}`, move("$", "data"), 1, `{"data":{"a":1}}`)
}

// Deep nesting, wherever it stands, is stepped over without recursion.
func TestDeepNesting(t *testing.T) {
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	v := parse(t, `{"a":`+deep+`,"b":1}`)
	if v.Set(path(t, "b"), []byte("2")) != 1 || string(v.Append(nil)) != `{"a":`+deep+`,"b":2}` {
		t.Error("the document is not what it was")
	}
}

// random writes a document of a few names, so that paths meet something.
func random(r *rand.Rand, depth int) any {
	switch n := r.IntN(10); {
	case depth == 0 || n < 4:
		return []any{nil, true, json.Number("1.50"), json.Number("12345678901234567890"), "text", `a"\é`, ""}[r.IntN(7)]
	case n < 6:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = random(r, depth-1)
		}
		return list
	default:
		m := map[string]any{}
		for range r.IntN(4) {
			m[string(rune('a'+r.IntN(4)))] = random(r, depth-1)
		}
		return m
	}
}

func randomPath(r *rand.Rand) Path {
	var p Path
	for range 1 + r.IntN(3) {
		switch r.IntN(6) {
		case 0:
			p.steps = append(p.steps, step{all: true})
		case 1:
			p.steps = append(p.steps, step{index: r.IntN(3)})
		default:
			p.steps = append(p.steps, step{name: string(rune('a' + r.IntN(4))), index: -1})
		}
	}
	return p
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// naive is the same change of a Go value: f gets the parents of the place.
func naive(at any, steps []step, f func(parent any, last step)) {
	if len(steps) == 1 {
		f(at, steps[0])
		return
	}
	switch at := at.(type) {
	case map[string]any:
		for name, child := range at {
			if steps[0].all || steps[0].named() && steps[0].name == name {
				naive(child, steps[1:], f)
			}
		}
	case []any:
		for i, child := range at {
			if steps[0].all || !steps[0].named() && steps[0].index == i {
				naive(child, steps[1:], f)
			}
		}
	}
}

// Replacing agrees with the same change of what encoding/json reads, and every sequence of changes leaves well-formed documents.
func TestRandomChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		text, err := json.Marshal(random(r, 4))
		if err != nil {
			t.Fatal(err)
		}
		v, p := parse(t, string(text)), randomPath(r)
		want := decode(t, text)
		naive(want, p.steps, func(parent any, last step) {
			switch parent := parent.(type) {
			case map[string]any:
				for name := range parent {
					if last.all || last.named() && last.name == name {
						parent[name] = "new"
					}
				}
			case []any:
				for i := range parent {
					if last.all || !last.named() && last.index == i {
						parent[i] = "new"
					}
				}
			}
		})
		v.Replace(p, []byte(`"new"`))
		if got := decode(t, v.Append(nil)); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: replace %s: %s", text, p, v.Append(nil))
		}
		for range 5 {
			q := randomPath(r)
			switch r.IntN(6) {
			case 0:
				v.Set(q, []byte(`{"a":[1]}`))
			case 1:
				v.Add(q, []byte("2"))
			case 2:
				v.Push(q, []byte("3"))
			case 3:
				v.Remove(q, r.IntN(2) == 0)
			case 4:
				v.Rename(q, "b")
			case 5:
				v.Move(q, randomPath(r))
			}
			if !json.Valid(v.Append(nil)) {
				t.Fatalf("%s: %s", text, v.Append(nil))
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"\u0061"}],"a":{}}`), "a[*].b")
	f.Fuzz(func(t *testing.T, text []byte, at string) {
		v, err := Parse(text)
		if err != nil {
			return
		}
		p, err := ParsePath(at)
		if err != nil {
			return
		}
		v.Get(p)
		v.Set(p, []byte("1"))
		v.Rename(p, "x")
		v.Remove(p, true)
		if !json.Valid(v.Append(nil)) {
			t.Fatalf("%q at %q became %q", text, at, v.Append(nil))
		}
	})
}

package config

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the reader of plain YAML reads is what the library reads, positions included.
func FuzzPlain(f *testing.F) {
	for _, text := range plainSeeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { samePlain(t, text) })
}

const plainRounds = 20_000

func samePlain(t *testing.T, text string) (read bool) {
	t.Helper()
	data := []byte(text)
	if _, _, bad := unreadable(data); bad {
		return false
	}
	if _, bad := crowded(data); bad {
		return false
	}
	src := &source{file: "f", kind: "file"}
	plain := plainTree(src, data)
	if plain == nil {
		return false
	}
	library, errs := libraryTree(src, data)
	if len(errs) > 0 {
		t.Fatalf("the library refuses what the plain reader reads: %v\n%s", errs, text)
	}
	if at := differs(plain, library, ""); at != "" {
		t.Fatalf("%s: the plain reader differs from the library\n%s", at, text)
	}
	return true
}

// differs names the first place at which two trees are not the same.
func differs(a, b *node, path string) string {
	if a.kind != b.kind || a.quoted != b.quoted || a.text != b.text || a.pos() != b.pos() || a.keyLine != b.keyLine || a.keyColumn != b.keyColumn ||
		len(a.fields) != len(b.fields) || len(a.items) != len(b.items) {
		return path + " " + a.found() + " at " + a.pos().String() + ", not " + b.found() + " at " + b.pos().String() + ":"
	}
	for i := range a.fields {
		if a.fields[i].key != b.fields[i].key {
			return path + " key " + a.fields[i].key
		}
		if at := differs(a.fields[i].value, b.fields[i].value, joinKey(path, a.fields[i].key)); at != "" {
			return at
		}
	}
	for i := range a.items {
		if at := differs(a.items[i], b.items[i], joinIndex(path, i)); at != "" {
			return at
		}
	}
	return ""
}

// plainSeeds are the files of the examples and of tests, and odd shapes.
func plainSeeds(t testing.TB) []string {
	t.Helper()
	seeds := plainShapes
	for _, pattern := range []string{"examples/*.y*ml", "testdata/*.yaml", "testdata/*/*.yaml", "deploy/*/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, string(data))
		}
	}
	return seeds
}

// Each is read by the plain reader.
var plainShapes = []string{
	"a: b", "a:\n", "a: ~\nb: null", "a: # c\n  b: c # d\n\n# e\nf: g", "a:\n- b\n- c: d\n  e: f\ng: h",
	"a:\n  - b\n  -\n    c: d\n", "- a\n- b: c\n", "  a: b\n  c: d\n", "a: {b: c, d: [e, f,], g: {}}", "a: [\n  b, # c\n  \"d\"\n ]\ne: f",
	`{"a":1,"b":{"c":[true,null,"d"]}}`, "{\n\"a\": 1,\n\"b\": [ ]\n}\n", `a: "b\\c\"d\n\t\/"`, "a: 'it''s'\n'b c': d", `"a b": c`,
	"a: :8080\nb: -5\nc: a:b\nd: a#b\ne: x y  z  \nf: http://a/b?c=d&e", "a: |\n  b\n   c\n\n  d\n\ne: f", "a: |-\n  b\n# c\nd: e", "a:\n- |\n  b\n- c", "a: |\n  b",
	"ä: b\n", "a: ä # ö\nb: {c: ü, d: e}\n", "a: ü\n",
}

func TestPlainReadsShapes(t *testing.T) {
	for _, text := range plainShapes[:len(plainShapes)-3] {
		if !samePlain(t, text) {
			t.Errorf("not read:\n%s", text)
		}
	}
}

// Most files are such, or reading them would not be fast.
func TestPlainReadsExamples(t *testing.T) {
	names, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !samePlain(t, string(data)) && !strings.ContainsAny(string(data), "&*>") {
			t.Errorf("%s is not read", name)
		}
	}
}

// What is put together from pieces of YAML is more often YAML, and nearly so, than what a fuzzer makes of bytes.
func TestPlainReadsPieces(t *testing.T) {
	pieces := strings.Split("\n|\n|\n  |\n  |\n    |\n |- |- |-|:|: |: |:\n|:\n  |,|, |[|]|{|}| |  |#| # c|\"|'|\"b\"|'c'|\\|\\\"|\\n|''|\\|\\| |~|null|a|b|key|key: |key: b|a.b|1|-5|:80|/p|..|...|---|%|&a|*a|!t|>|?|? |<<|<<: |@|`|ä|\u2028|\t|a: b\n|- c\n|=x|http://h:1/p|${A}|(|;|", "|")
	pieces = append(pieces, "|", "|\n", "|-\n", "|+\n", "|\n  text\n", "||", "key: |\n  x\n\n", "\r")
	random := rand.New(rand.NewPCG(1, 2))
	read := 0
	for range plainRounds {
		var b strings.Builder
		if random.IntN(2) == 0 {
			b.WriteString(plainShapes[random.IntN(len(plainShapes))])
		}
		for range random.IntN(14) {
			piece := pieces[random.IntN(len(pieces))]
			if whole := b.String(); whole != "" && random.IntN(3) == 0 {
				at := random.IntN(len(whole) + 1)
				b.Reset()
				b.WriteString(whole[:at] + piece + whole[at:])
				continue
			}
			b.WriteString(piece)
		}
		if samePlain(t, b.String()) {
			read++
		}
	}
	if read < plainRounds/20 {
		t.Errorf("only %d of %d texts were read", read, plainRounds)
	}
}

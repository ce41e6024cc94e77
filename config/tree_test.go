package config

import (
	"testing"
	"unicode/utf8"
)

// FuzzTreeYAML: what is made and written down is read as the same.
func FuzzTreeYAML(f *testing.F) {
	for _, text := range []string{"a", "%a", "a: b", "#", "- x", "a\u0085b", "\u2028", "\ufeff", "\x00\x1b", "\xff", "null", "~", "<<", "*a", "&a", "...", "---", "'", "\"\\", " a ", "a\n b\r\n", "😀", "{a:b}", "a,b", "?", "-", "=", "!x", "@x", "`", "0x1F", "1e3", "http://a:80/b?c=d#e", "${A}", ""} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, key, text string) {
		if !utf8.ValidString(key) || !utf8.ValidString(text) {
			t.Skip("what is read is UTF-8")
		}
		inner := NewMap(Tree{}).Set(key, NewText(Tree{}, text))
		root := NewMap(Tree{}).Set("map", inner).Set("flow", NewTexts(Tree{}, text, "x", text)).Set("text", NewText(Tree{}, text)).
			Set("blocks", NewList(Tree{}, inner, NewList(Tree{}, NewText(Tree{}, text), NewMap(Tree{}).Set("a", NewText(Tree{}, text)))))
		written := root.YAML()
		read, errs := parseTree("f", written)
		if len(errs) > 0 {
			t.Fatalf("%v in\n%s", errs, written)
		}
		back := Tree{read}
		same := func(where string, got Tree, want string) {
			if !got.Scalar() || got.Text() != want {
				t.Errorf("%s: got %q, want %q, of\n%s", where, got.Text(), want, written)
			}
		}
		same("map", back.Get("map").Get(key), text)
		same("text", back.Get("text"), text)
		for _, i := range []int{0, 2} {
			same("flow", back.Get("flow").Items()[i], text)
		}
		blocks := back.Get("blocks").Items()
		same("block", blocks[0].Get(key), text)
		same("block", blocks[1].Items()[0], text)
		same("block", blocks[1].Items()[1].Get("a"), text)
	})
}

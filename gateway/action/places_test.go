package action

import (
	"reflect"
	"testing"
)

func TestPieces(t *testing.T) {
	f := func(text, fault string, want ...Piece) {
		t.Helper()
		got, err := Pieces(text)
		if !reflect.DeepEqual(got, want) || (err == nil) != (fault == "") || err != nil && err.Error() != fault {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	f("", "")
	f("a$b}", "", Piece{"a$b}", false})
	f("${a}", "", Piece{"a", true})
	f("x${a.b[0]}${}y${c}", "", Piece{"x", false}, Piece{"a.b[0]", true}, Piece{"", true}, Piece{"y", false}, Piece{"c", true})
	f("x${a", "${a has no closing brace", Piece{"x", false})
}

func TestPathFault(t *testing.T) {
	f := func(text string, want string) {
		t.Helper()
		if got := PathFault(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	f("/a/${query.b?}/...", "")
	f("a", "must begin with a slash")
	f("/a?b", "has no query and no fragment; parameters go into query")
	f("/a%20b", "has an escape; write the characters themselves, the gateway encodes them")
	f("/a/..;x/b", "has a segment . or ..; write where it leads to")
}

func TestSegments(t *testing.T) {
	for value, want := range map[string]bool{"a": true, "a b%2f": true, "..": true, "": false, "a/b": false, "a\\b": false, "a\r\nb": false, "\x7f": false} {
		if FitsSegment([]byte(value)) != want {
			t.Errorf("%q: %v", value, !want)
		}
	}
	for path, want := range map[string]bool{"/a/b": false, "/a/../b": true, "/.": true, "/..;x": true, "/...": false, "/a..": false} {
		if LeavesSegment([]byte(path)) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOwner(t *testing.T) {
	dir := t.TempDir()
	first, err := Owner(dir, "lock")
	if err != nil || first == nil {
		t.Fatal(first, err)
	}
	// A lock is the open file's: for another one it is as for another process.
	if second, err := Owner(dir, "lock"); err != nil || second != nil {
		t.Fatal(second, err)
	}
	first.Close()
	if third, err := Owner(dir, "lock"); err != nil || third == nil {
		t.Error(third, err)
	}
	if _, err := Owner(filepath.Join(dir, "none"), "lock"); err == nil {
		t.Error("no error without a folder")
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "file")
	for _, content := range []string{"first", "second, and longer", ""} {
		if err := Replace(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	// What can not be put in place leaves nothing behind.
	if err := Replace(filepath.Dir(path), nil); err == nil {
		t.Error("a folder was replaced")
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Error(entries, err)
		}
	}
}

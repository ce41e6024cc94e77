package tree

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repository is a new one, of two commits, and the current folder of the test.
func repository(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	run := func(args ...string) {
		t.Helper()
		args = append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("init", "-q")
	for _, text := range []string{"one", "two"} {
		if err := os.WriteFile("file", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		run("add", "file")
		run("commit", "-q", "-m", text)
	}
}

func TestCheckout(t *testing.T) {
	repository(t)
	f := func(commit, want string) {
		t.Helper()
		tree, err := Checkout(t.Context(), commit, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(tree.Dir, "file")); string(got) != want {
			t.Errorf("%s has %q, want %q", commit, got, want)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(tree.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", tree.Dir, err)
		}
		if known, _ := git(context.Background(), "worktree", "list"); strings.Count(known, "\n") != 0 {
			t.Errorf("git still knows\n%s", known)
		}
	}
	f("HEAD", "two")
	f("HEAD^", "one")
	if _, err := Checkout(t.Context(), "nothing", t.TempDir()); err == nil {
		t.Error("a commit that is not there was checked out")
	}
}

func TestParent(t *testing.T) {
	repository(t)
	f := func(want string) {
		t.Helper()
		if got, err := Parent(t.Context()); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	f("HEAD^")
	if err := os.WriteFile("other", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f("HEAD^") // nobody tracks it
	if err := os.WriteFile("file", []byte("three"), 0o644); err != nil {
		t.Fatal(err)
	}
	f("HEAD")
	if out, err := exec.Command("git", "checkout", "-q", "-f", "HEAD^").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := Parent(t.Context()); err == nil || !strings.Contains(err.Error(), "no parent") {
		t.Errorf("the first commit: %v", err)
	}
}

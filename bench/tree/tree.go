// Package tree checks out earlier commits of this repository, to measure them
// beside the present one: both on the same machine in the same minutes, which is
// the only comparison of speeds that holds.
package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tree is a checkout in a folder of its own.
type Tree struct {
	Dir    string
	Commit string // abbreviated
}

// Checkout makes a commit's files in a new folder below dir. Close removes it,
// with what git knows of it.
func Checkout(ctx context.Context, commit, dir string) (*Tree, error) {
	short, err := git(ctx, "rev-parse", "--verify", "--short", commit+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("no commit %q: %w", commit, err)
	}
	t := &Tree{Dir: filepath.Join(dir, "tree-"+short), Commit: short}
	if _, err := git(ctx, "worktree", "add", "--force", "--detach", t.Dir, short); err != nil {
		return nil, fmt.Errorf("cannot check out %s: %w", short, err)
	}
	return t, nil
}

// Close removes the checkout.
func (t *Tree) Close() error {
	// Not with the context of the run: it is removed when that was interrupted, too.
	_, err := git(context.Background(), "worktree", "remove", "--force", t.Dir)
	return errors.Join(err, os.RemoveAll(t.Dir))
}

// Parent is what the present tree is to be compared with: the last commit where
// it differs from that, else the one before. The error of a history without
// that says so.
func Parent(ctx context.Context) (string, error) {
	changed, err := git(ctx, "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return "", err
	}
	if changed != "" {
		return "HEAD", nil
	}
	if _, err := git(ctx, "rev-parse", "--verify", "HEAD^"); err != nil {
		return "", fmt.Errorf("this commit has no parent here (a shallow clone?): %w", err)
	}
	return "HEAD^", nil
}

// Root is the folder of the present tree.
func Root(ctx context.Context) (string, error) { return git(ctx, "rev-parse", "--show-toplevel") }

// Go runs the go command in a folder. Its output is part of the error.
func Go(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("git %s: %s", args[0], strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

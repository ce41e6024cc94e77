package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// WriteBack replaces the content of a single file at once: a reader sees the old content or the new, also after a crash.
// The file keeps its mode and, where that is allowed, its owner; a symbolic link stays and what it leads to is
// replaced. A file that does not exist is made, readable by its owner only.
func WriteBack(path string, data []byte) (err error) {
	fail := func(err error) error {
		var reason *os.PathError
		if errors.As(err, &reason) {
			err = reason.Err
		}
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	target := path
	mode := os.FileMode(0o600)
	owner := -1
	group := -1
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return fail(errors.New("it is no regular file"))
	case err == nil:
		mode = info.Mode().Perm()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			owner, group = int(st.Uid), int(st.Gid)
		}
		if target, err = filepath.EvalSymlinks(path); err != nil {
			return fail(err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return fail(err)
	}

	dir := filepath.Dir(target)
	// Hidden, and without the extension that a directory's files have.
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(target)+".*.tmp")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if owner >= 0 {
		_ = tmp.Chown(owner, group) // only root may give a file away
	}
	if err = tmp.Chmod(mode); err != nil {
		return fail(err)
	}
	if _, err = tmp.Write(data); err != nil {
		return fail(err)
	}
	if err = tmp.Sync(); err != nil {
		return fail(err)
	}
	if err = tmp.Close(); err != nil {
		return fail(err)
	}
	if err = os.Rename(tmp.Name(), target); err != nil {
		if errors.Is(err, syscall.EBUSY) {
			return fail(errors.New("it is a mount point of its own and can not be replaced; mount its directory instead"))
		}
		var reason *os.LinkError
		if errors.As(err, &reason) {
			return fail(reason.Err)
		}
		return fail(err)
	}
	// The new name itself must survive a crash; the content is there already, so that a failure changes nothing.
	if d, openErr := os.Open(dir); openErr == nil {
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}

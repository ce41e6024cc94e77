package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sys/unix"
)

// Prepare makes the folder if it is not there, and finds out whether it can be
// written.
func Prepare(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("the folder can not be made: %w", err)
	}
	f, err := os.CreateTemp(folder, ".writable-")
	if err != nil {
		return fmt.Errorf("the folder can not be written: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Check says whether Prepare would succeed, and leaves everything as it is.
func Check(folder string) error {
	for at := filepath.Clean(folder); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at) {
			continue
		}
		switch {
		case err != nil:
			return fmt.Errorf("the folder can not be made: %w", err)
		case !info.IsDir():
			return fmt.Errorf("%s is no folder", at)
		}
		if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("%s can not be written: %w", at, err)
		}
		return nil
	}
}

// storage is certmagic's folder with locks of the kernel's, which end with the
// process that holds them. Gateways on other machines may share it where the
// file system passes such locks on, as NFS does.
type storage struct {
	certmagic.FileStorage

	mu   sync.Mutex
	held map[string]*os.File // by name
}

// lockEvery is how often a lock that another holds is asked for.
const lockEvery = 250 * time.Millisecond

func newStorage(folder string) *storage {
	return &storage{FileStorage: certmagic.FileStorage{Path: folder}, held: make(map[string]*os.File)}
}

// Lock implements certmagic.Storage.
func (s *storage) Lock(ctx context.Context, name string) error {
	for {
		ok, err := s.TryLock(ctx, name)
		if ok || err != nil {
			return err
		}
		if !wait(ctx, lockEvery, nil) {
			return ctx.Err()
		}
	}
}

// TryLock implements certmagic.TryLocker.
func (s *storage) TryLock(_ context.Context, name string) (bool, error) {
	path := s.lockFile(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !stillAt(f, path) {
		// Who held it has removed it since it was opened.
		err = unix.EWOULDBLOCK
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	s.mu.Lock()
	s.held[name] = f
	s.mu.Unlock()
	return true, nil
}

// Unlock implements certmagic.Storage.
func (s *storage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	f := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if f == nil {
		return fmt.Errorf("the lock %s is not held", name)
	}
	// Removed first: once it is free it is another's.
	return errors.Join(os.Remove(s.lockFile(name)), f.Close())
}

func (s *storage) lockFile(name string) string {
	return filepath.Join(s.Path, "locks", certmagic.StorageKeys.Safe(name)+".lock")
}

// stillAt reports whether path leads to the open file.
func stillAt(f *os.File, path string) bool {
	opened, err1 := f.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(opened, named)
}

// discardBroken removes what is stored for a name if it is all there and does
// not make a certificate, as after a crash in the middle of a renewal: certmagic
// would fail with it for ever. It reports whether it did. What another gateway
// is about to store looks the same for a moment, and stays.
func (s *storage) discardBroken(ctx context.Context, issuer, name string) bool {
	if !s.isBroken(ctx, issuer, name) {
		return false
	}
	lock := issueLock + name
	if held, err := s.TryLock(ctx, lock); err != nil || !held {
		return false
	}
	defer func() { _ = s.Unlock(ctx, lock) }()
	if !s.isBroken(ctx, issuer, name) {
		return false
	}
	for _, key := range storedAs(issuer, name) {
		_ = s.Delete(ctx, key)
	}
	return true
}

// issueLock begins the name of the lock under which certmagic stores a certificate.
const issueLock = "issue_cert_"

// storedAs are the names of a certificate, its key, and what is known of it.
func storedAs(issuer, name string) [3]string {
	return [...]string{
		certmagic.StorageKeys.SiteCert(issuer, name),
		certmagic.StorageKeys.SitePrivateKey(issuer, name),
		certmagic.StorageKeys.SiteMeta(issuer, name),
	}
}

// isBroken tells whether what is stored for a name is all there and makes no certificate.
func (s *storage) isBroken(ctx context.Context, issuer, name string) bool {
	keys := storedAs(issuer, name)
	var contents [len(keys)][]byte
	for i, key := range keys {
		b, err := s.Load(ctx, key)
		if err != nil {
			return false
		}
		contents[i] = b
	}
	defer clear(contents[1])
	_, err := tls.X509KeyPair(contents[0], contents[1])
	return err != nil || !json.Valid(contents[2])
}

package source

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sluice/config"
	"sluice/gateway/etcd"
)

// Store is a configuration below a prefix of etcd: PREFIX/NAME.yaml are merged as the files of a directory are, and
// PREFIX/teams/NAME/*.yaml are a team's. Its methods may be called from any goroutine.
type Store struct {
	settings etcd.Settings
	prefix   string // begins with a slash and does not end in one
	name     string // of the store in messages
	log      *slog.Logger
	// quiet is how long nothing must follow a change until it counts as complete.
	quiet time.Duration

	mu     sync.Mutex
	client *etcd.Client
	seen   string // fingerprint of what was read last, "" before
}

// StoreOptions are what the address of a store does not say.
type StoreOptions struct {
	Username, Password string
	// CA, Cert and Key are files, for TLS.
	CA, Cert, Key string
	// Timeout of one question; default 5 s.
	Timeout time.Duration
	// Log hears that the store can not be asked; default: nobody.
	Log *slog.Logger
}

// IsStore tells whether a path is the address of a store.
func IsStore(path string) bool {
	return strings.HasPrefix(path, "etcd://") || strings.HasPrefix(path, "etcds://")
}

// OpenStore returns the configuration at etcd://HOST:PORT[,HOST:PORT…]/PREFIX, with etcds:// over TLS. It connects to
// nothing yet.
func OpenStore(address string, o StoreOptions) (*Store, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	hosts, prefix, _ := strings.Cut(rest, "/")
	s := &Store{prefix: "/" + strings.Trim(prefix, "/"), log: o.Log, quiet: 100 * time.Millisecond}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if strings.Contains(hosts, "@") {
		return nil, errors.New("the address of a store holds no user; give --etcd-username, and the password as SLUICE_ETCD_PASSWORD")
	}
	if s.prefix == "/" || strings.ContainsAny(prefix, "?#") || path.Clean(s.prefix) != s.prefix {
		return nil, fmt.Errorf("%s names no prefix of keys; write %s://host:2379/prefix", address, scheme)
	}
	transport := "http"
	if scheme == "etcds" {
		transport = "https"
	}
	for host := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse(transport + "://" + host)
		if err != nil || u.Hostname() == "" {
			return nil, fmt.Errorf("%s names no server; write %s://host:2379/prefix", address, scheme)
		}
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "2379")
		}
		s.settings.Servers = append(s.settings.Servers, u.String())
	}
	secured, err := etcd.ClientTLS(o.CA, o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("--etcd-%w", err)
	}
	if secured == nil && scheme == "etcds" {
		secured = &tls.Config{MinVersion: tls.VersionTLS12}
	} else if secured != nil && scheme == "etcd" {
		return nil, errors.New("certificates are given and the store is not spoken to over TLS; write etcds://")
	}
	s.settings.TLS, s.settings.Username, s.settings.Password, s.settings.Timeout = secured, o.Username, o.Password, o.Timeout
	if s.settings.Timeout <= 0 {
		s.settings.Timeout = 5 * time.Second
	}
	s.name = scheme + "://" + hosts + s.prefix
	return s, nil
}

// Close ends the connections.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}

func (s *Store) open() (*etcd.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	c, err := etcd.Open(context.Background(), s.settings)
	if err == nil {
		s.client = c
	}
	return c, err
}

func (s *Store) get() (*etcd.Content, error) {
	c, err := s.open()
	if err != nil {
		return nil, err
	}
	return c.Get(context.Background(), s.prefix)
}

// Read returns the configuration as it is in the store, all of one revision.
func (s *Store) Read() (config.Input, error) {
	content, err := s.get()
	if err != nil {
		return config.Input{}, err
	}
	in, err := s.input(content)
	s.mu.Lock()
	s.seen = s.fingerprint(content)
	s.mu.Unlock()
	return in, err
}

// input makes files of keys. Others than those of a configuration are not looked at.
func (s *Store) input(content *etcd.Content) (in config.Input, err error) {
	for _, kv := range content.KVs {
		team, ok := s.part(kv.Key)
		if !ok {
			continue
		}
		// ${file:PATH} starts in the folder that the gateway runs in.
		f := config.File{Name: s.name + strings.TrimPrefix(kv.Key, s.prefix), Data: kv.Value, Dir: "."}
		if team == "" {
			in.Files = append(in.Files, f)
			continue
		}
		if in.Teams == nil {
			in.Teams = make(map[string][]config.File)
		}
		in.Teams[team] = append(in.Teams[team], f)
	}
	if len(in.Files) == 0 {
		return in, config.Errors{{Pos: config.Position{File: s.name}, Message: fmt.Sprintf("there is no configuration; put one into a key, as etcdctl put %s/sluice.yaml \"$(cat gateway.yaml)\"", s.prefix)}}
	}
	return in, nil
}

// part tells whether a key is of the configuration, and of which team.
func (s *Store) part(key string) (team string, ok bool) {
	rest, ok := strings.CutPrefix(key, s.prefix+"/")
	if !ok || path.Ext(rest) != ".yaml" || strings.HasPrefix(path.Base(rest), ".") {
		return "", false
	}
	switch steps := strings.Split(rest, "/"); {
	case len(steps) == 1:
		return "", true
	case len(steps) == 3 && steps[0] == "teams" && steps[1] != "":
		return steps[1], true
	}
	return "", false
}

// fingerprint tells contents apart: every change of a key has a revision of its own.
func (s *Store) fingerprint(content *etcd.Content) string {
	var b strings.Builder
	for _, kv := range content.KVs {
		if _, ok := s.part(kv.Key); ok {
			b.WriteString(kv.Key + "@" + strconv.FormatInt(kv.Revision, 10) + " ")
		}
	}
	b.WriteString(".") // also nothing is something
	return b.String()
}

// Watch calls changed after the configuration has become another than at the last Read, and returns when ctx is done. A
// store that can not be asked is asked again, and what changed meanwhile is told then.
func (s *Store) Watch(ctx context.Context, changed func()) {
	pause := firstPause
	for ctx.Err() == nil {
		heard := false
		err := s.follow(ctx, func() {
			heard = true
			changed()
		}, func() { heard = true })
		if ctx.Err() != nil {
			return
		}
		if heard {
			pause = firstPause
		}
		wait := pause/2 + rand.N(pause/2)
		s.log.Warn("the configuration store can not be watched; the running configuration stays in force", "error", err.Error(), "retry_in", wait.Round(time.Millisecond).String())
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		pause = min(2*pause, lastPause)
	}
}

// Pauses after a failure.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 15 * time.Second
)

// follow tells of changes until something goes wrong. A burst of them is told once, when it is over.
func (s *Store) follow(ctx context.Context, changed, heard func()) error {
	client, err := s.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	contents := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- client.Follow(ctx, s.prefix, func(c *etcd.Content) {
			select {
			case contents <- s.fingerprint(c):
			case <-ctx.Done():
			}
		}, nil)
	}()
	defer cancel()
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	defer settle.Stop()
	last := ""
	for {
		select {
		case err := <-ended:
			return err
		case last = <-contents:
			heard()
			settle.Reset(s.quiet)
		case <-settle.C:
			s.mu.Lock()
			same := s.seen == last
			s.mu.Unlock()
			if !same && ctx.Err() == nil {
				changed()
			}
		}
	}
}

// ErrChanged says that the configuration is another one than it was to be.
var ErrChanged = etcd.ErrChanged

// ErrParts says that the configuration is in several keys, so that no text can take its place.
var ErrParts = errors.New("the configuration is in several keys of the store; change those")

// Text returns the text of the configuration that Write replaces, and its version, which is that of the whole
// configuration with all its teams.
func (s *Store) Text() (text []byte, version string, err error) {
	content, err := s.get()
	if err != nil {
		return nil, "", err
	}
	kv, err := s.single(content)
	return kv.Value, versionOf(content), err
}

func versionOf(content *etcd.Content) string {
	last := int64(0)
	for _, kv := range content.KVs {
		last = max(last, kv.Revision)
	}
	return strconv.FormatInt(last, 10) + "." + strconv.Itoa(len(content.KVs))
}

// single is the one key of the gateway's own part; where there is none it is one with revision 0.
func (s *Store) single(content *etcd.Content) (kv etcd.KV, err error) {
	kv.Key = s.prefix + "/sluice.yaml"
	found := 0
	for _, candidate := range content.KVs {
		if team, ok := s.part(candidate.Key); ok && team == "" {
			kv = candidate
			found++
		}
	}
	if found > 1 {
		return kv, ErrParts
	}
	return kv, nil
}

// Write replaces the text, if the configuration still has the version: whoever changed it meanwhile has been first. It
// returns the new version.
func (s *Store) Write(text []byte, version string) (string, error) {
	content, err := s.get()
	if err != nil {
		return "", err
	}
	kv, err := s.single(content)
	switch {
	case err != nil:
		return "", err
	case versionOf(content) != version:
		return "", ErrChanged
	case bytes.Equal(kv.Value, text) && kv.Revision > 0:
		return version, nil
	}
	client, err := s.open()
	if err != nil {
		return "", err
	}
	revision, err := client.Put(context.Background(), kv.Key, text, kv.Revision)
	if err != nil {
		return "", err
	}
	n := len(content.KVs)
	if kv.Revision == 0 {
		n++
	}
	return strconv.FormatInt(revision, 10) + "." + strconv.Itoa(n), nil
}

// Parse reads what Write would be given, together with what teams have now.
func (s *Store) Parse(text []byte, o config.Options) (*config.Config, error) {
	content, err := s.get()
	if err != nil {
		return nil, err
	}
	in, _ := s.input(content)
	in.Files = []config.File{{Name: s.name + "/sluice.yaml", Data: text, Dir: "."}}
	c, err := in.Load(o)
	// What a team has broken is no reason against the gateway's own part.
	for range len(in.Teams) {
		var all config.Errors
		if !errors.As(err, &all) {
			break
		}
		before := len(in.Teams)
		for team := range in.Teams {
			if slices.ContainsFunc(all, func(e *config.Error) bool { return in.TeamOf(e.Pos.File) == team }) {
				delete(in.Teams, team)
			}
		}
		if len(in.Teams) == before {
			break
		}
		c, err = in.Load(o)
	}
	return c, err
}

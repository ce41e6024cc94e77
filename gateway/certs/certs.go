// Package certs chooses the certificate of a TLS handshake by the name the
// client asks for, loads files again when their contents change, staples OCSP
// responses, and rotates session ticket keys. A set of files is taken whole or
// not at all: what a handshake gets is always a chain with its own key, and
// files that turn bad leave the ones before in use. Nothing here logs, and no
// error carries the contents of a file.
package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Files are those of one certificate.
type Files struct {
	// Cert is the chain, the leaf first, and Key its private key: PEM.
	Cert, Key string
	// OCSP is a response to staple, DER or PEM; "" is none.
	OCSP string
}

// Problem is what is wrong with a file.
type Problem struct {
	// Index is the place in the list of Files, Field "cert", "key" or "ocsp".
	Index int
	Field string
	Err   error
	// Warning: the certificate is used all the same.
	Warning bool
}

func (p *Problem) Error() string { return p.Field + ": " + p.Err.Error() }

// Info describes a certificate that is in use.
type Info struct {
	// File is the path of the chain as configured.
	File string
	// Subject is the leaf's common name, else its first DNS name.
	Subject string
	// Names are those it is valid for: DNS names, then addresses.
	Names []string
	// Issuer is who signed it.
	Issuer              string
	NotBefore, NotAfter time.Time
	// Stapled: an OCSP response goes with it.
	Stapled bool
}

// Store holds the certificates of one listener. Its methods may be called at
// any time from any goroutine.
type Store struct {
	files   []Files
	now     func() time.Time
	current atomic.Pointer[set]
	mu      sync.Mutex // Refresh
	failed  []error    // by entry: what its files failed with last, said once
}

// Open loads the files. Every problem is reported; store is nil if one of them
// is more than a warning. now is the clock, nil for the real time.
func Open(files []Files, now func() time.Time) (store *Store, problems []*Problem) {
	if now == nil {
		now = time.Now
	}
	s := &Store{files: slices.Clone(files), now: now, failed: make([]error, len(files))}
	entries := make([]*entry, len(files))
	usable := true
	for i := range files {
		e, found := load(&files[i], now())
		for _, p := range found {
			p.Index = i
			problems = append(problems, p)
			usable = usable && p.Warning
		}
		entries[i] = e
	}
	if len(files) == 0 {
		return nil, []*Problem{{Field: "cert", Err: errors.New("there is no certificate")}}
	}
	if !usable {
		return nil, problems
	}
	s.current.Store(newSet(entries))
	return s, problems
}

// Refresh reads the files and puts those that changed in use; contents count,
// not names or times, so that a swapped symbolic link is a change and a touched
// file is none. An entry that can not be loaded stays as it is. It returns the
// entries that changed, and the problems that were not reported before.
func (s *Store) Refresh() (changed []int, problems []*Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.current.Load()
	entries := slices.Clone(before.entries)
	now := s.now()
	for i := range s.files {
		sum, err := digest(&s.files[i])
		if err == nil && sum == entries[i].sum && now.Before(entries[i].until) {
			s.failed[i] = nil
			continue
		}
		e, found := load(&s.files[i], now)
		if e != nil {
			if e.sum != entries[i].sum {
				changed = append(changed, i)
			}
			entries[i] = e
		}
		var first error
		for _, p := range found {
			if first == nil {
				first = p
			}
		}
		if first != nil && (s.failed[i] == nil || s.failed[i].Error() != first.Error()) {
			for _, p := range found {
				p.Index = i
				problems = append(problems, p)
			}
		}
		s.failed[i] = first
	}
	if !slices.Equal(entries, before.entries) {
		s.current.Store(newSet(entries))
	}
	return changed, problems
}

// Certificates describes what is in use, in the order of the files.
func (s *Store) Certificates() []Info {
	set := s.current.Load()
	all := make([]Info, len(set.entries))
	for i, e := range set.entries {
		all[i] = Describe(e.cert)
		all[i].File = s.files[i].Cert
	}
	return all
}

// Describe describes a certificate, which has its leaf parsed.
func Describe(c *tls.Certificate) Info {
	leaf := c.Leaf
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	issuer := leaf.Issuer.CommonName
	if issuer == "" {
		issuer = leaf.Issuer.String()
	}
	return Info{Subject: subjectOf(leaf), Names: names, Issuer: issuer, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Stapled: len(c.OCSPStaple) > 0}
}

// GetCertificate is for tls.Config. The exact name wins over a wildcard, that
// over the first certificate, which is the default; among those of one name
// the client's abilities decide, ECDSA before RSA.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.current.Load().choose(hello), nil
}

// Named returns the certificate for the name that the client asks for, nil if
// there is none: the default is for those who ask for nothing, or in vain.
func (s *Store) Named(hello *tls.ClientHelloInfo) *tls.Certificate {
	return s.current.Load().named(hello)
}

// set is an immutable choice of certificates.
type set struct {
	entries  []*entry
	byName   map[string][]*tls.Certificate // lower case; wildcards as "*.example.com"
	standard []*tls.Certificate            // the first one, and those of its first name
}

func newSet(entries []*entry) *set {
	s := &set{entries: entries, byName: make(map[string][]*tls.Certificate)}
	for _, e := range entries {
		for _, name := range namesOf(e.cert.Leaf) {
			s.byName[name] = append(s.byName[name], e.cert)
		}
	}
	for _, list := range s.byName {
		slices.SortStableFunc(list, func(a, b *tls.Certificate) int { return rank(a) - rank(b) })
	}
	s.standard = []*tls.Certificate{entries[0].cert}
	if names := namesOf(entries[0].cert.Leaf); len(names) > 0 {
		s.standard = s.byName[names[0]]
	}
	return s
}

func (s *set) choose(hello *tls.ClientHelloInfo) *tls.Certificate {
	if c := s.named(hello); c != nil {
		return c
	}
	return suited(hello, s.standard)
}

func (s *set) named(hello *tls.ClientHelloInfo) *tls.Certificate {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if list := s.byName[name]; name != "" && list != nil {
		return suited(hello, list)
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		// One label, as RFC 9525, section 6.3 has it.
		if list := s.byName["*"+name[i:]]; list != nil {
			return suited(hello, list)
		}
	}
	return nil
}

// suited returns the first certificate that the client can verify.
func suited(hello *tls.ClientHelloInfo, list []*tls.Certificate) *tls.Certificate {
	if len(list) > 1 {
		for _, c := range list {
			if canVerify(hello, c) {
				return c
			}
		}
	}
	return list[len(list)-1]
}

// digest sums up the contents of the files of one certificate.
func digest(f *Files) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, path := range [...]string{f.Cert, f.Key, f.OCSP} {
		if path != "" {
			b, err := readPEM(path)
			if err != nil {
				return sum, err
			}
			part := sha256.Sum256(b)
			h.Write(part[:])
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

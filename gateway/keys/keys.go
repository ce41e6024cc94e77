// Package keys holds the API keys that are made while the gateway runs, and keeps them in a file of state.dir. It
// guarantees that a key stands nowhere but in the answer that makes it (what is kept is its hash); that a key which was
// revoked is refused from then on, also when the disk fails; that what was acknowledged is on the disk; and that finding a
// key takes no lock and allocates nothing.
package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Record is what is kept of a key.
type Record struct {
	ID       string `json:"id"`
	Consumer string `json:"consumer"`
	// Tenant that the consumer had when the key was made. A consumer of that name in another tenant is another one.
	Tenant string `json:"tenant,omitempty"`
	Name   string `json:"name,omitempty"`
	// Hash is the SHA-256 of the key, hexadecimal.
	Hash string `json:"hash"`
	// Hint is how the key begins, to tell keys apart.
	Hint    string    `json:"hint"`
	Created time.Time `json:"created"`
	// Expires is when the key ceases to be valid, zero for never.
	Expires time.Time `json:"expires,omitzero"`
	Revoked time.Time `json:"revoked,omitzero"`
	// Replaces and ReplacedBy are the ids of the keys before and after a rotation.
	Replaces   string `json:"replaces,omitempty"`
	ReplacedBy string `json:"replaced_by,omitempty"`
	// CIDRs, Methods and Paths are where the key may be used; empty ones mean everywhere.
	CIDRs   []netip.Prefix `json:"cidrs,omitempty"`
	Methods []string       `json:"methods,omitempty"`
	Paths   []string       `json:"paths,omitempty"`
	// LastUsed is when a request was last authenticated by the key, zero for never.
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Spec is what is asked of a new key.
type Spec struct {
	Consumer, Tenant, Name string
	Expires                time.Time
	CIDRs, Methods, Paths  []string
}

// SpecError says what is wrong with one setting of a Spec.
type SpecError struct{ Setting, Message string }

func (e *SpecError) Error() string { return e.Setting + ": " + e.Message }

// Bounds of a key.
const (
	maxName   = 200
	maxLimits = 100 // addresses, methods, paths each
	maxPath   = 4096
	maxMethod = 64
)

// record checks a Spec.
func (s *Spec) record(now time.Time) (*Record, error) {
	r := &Record{Consumer: s.Consumer, Tenant: s.Tenant, Name: s.Name, Created: now, Expires: s.Expires}
	var errs []error
	wrong := func(setting, format string, a ...any) {
		errs = append(errs, &SpecError{setting, fmt.Sprintf(format, a...)})
	}
	if len(s.Name) > maxName || !isLine(s.Name) {
		wrong("name", "must be one line of up to %d bytes", maxName)
	}
	if !s.Expires.IsZero() && !s.Expires.After(now) {
		wrong("expires", "%s has passed", s.Expires.Format(time.RFC3339))
	}
	for _, limit := range []struct {
		setting string
		n       int
	}{{"cidrs", len(s.CIDRs)}, {"methods", len(s.Methods)}, {"paths", len(s.Paths)}} {
		if limit.n > maxLimits {
			wrong(limit.setting, "are %d; a key has up to %d", limit.n, maxLimits)
		}
	}
	for _, text := range s.CIDRs {
		p, err := parseCIDR(text)
		if err != nil {
			wrong("cidrs", "%q is no network; write 192.0.2.0/24, 2001:db8::/32 or an address", text)
			continue
		}
		r.CIDRs = append(r.CIDRs, p)
	}
	for _, m := range s.Methods {
		if !isMethod(m) {
			wrong("methods", "%q is no method; write GET, POST, …", m)
		}
		r.Methods = append(r.Methods, m)
	}
	for _, p := range s.Paths {
		if !isPath(p) {
			wrong("paths", "%q is no path; write /orders for it and what is below it, or =/orders for it alone", p)
		}
		r.Paths = append(r.Paths, p)
	}
	return r, errors.Join(errs...)
}

func isLine(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

func isMethod(m string) bool {
	return m != "" && len(m) <= maxMethod && !strings.ContainsFunc(m, func(c rune) bool { return c < 'A' || c > 'Z' })
}

func isPath(p string) bool {
	bare := strings.TrimPrefix(p, "=")
	return strings.HasPrefix(bare, "/") && len(p) <= maxPath && !strings.ContainsAny(bare, "?#*{}")
}

func parseCIDR(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("is an IPv4 network written as IPv6")
	}
	return p.Masked(), err
}

// prefix begins every key, so that scanners of source code find keys that went where they should not.
const prefix = "slk_"

// hintSize is how much of a key is shown afterwards: too little to be of use to anybody.
const hintSize = len(prefix) + 4

// generate makes a key of 260 random bits.
func generate() string { return prefix + rand.Text() + rand.Text() }

const (
	idPrefix = "key_"
	idSize   = 16
)

func newID() string { return idPrefix + strings.ToLower(rand.Text()[:idSize]) }

// Key is a record as the path of a request knows it. All but its use is immutable.
type Key struct {
	Record
	sum     [sha256.Size]byte
	expires int64 // Unix nanoseconds
	id      []byte
	used    *atomic.Int64 // Unix seconds; of all versions of the record
	noted   int64         // what of used the file has; the store's mu guards it
	told    int64         // what of used other instances know; the store's mu guards it
}

func newKey(r *Record, used *atomic.Int64) (*Key, error) {
	sum, err := hex.DecodeString(r.Hash)
	if err != nil || len(sum) != sha256.Size || r.ID == "" || r.Consumer == "" {
		return nil, errors.New("is no record of a key")
	}
	k := &Key{Record: *r, sum: [sha256.Size]byte(sum), expires: math.MaxInt64, id: []byte(r.ID), used: used}
	if !r.Expires.IsZero() && r.Expires.Before(time.Unix(0, math.MaxInt64)) { // 9999 is never
		k.expires = r.Expires.UnixNano()
	}
	if used == nil {
		k.used = new(atomic.Int64)
	}
	if !r.LastUsed.IsZero() {
		k.use(r.LastUsed.Unix())
	}
	k.noted = k.used.Load()
	return k, nil
}

// View is the record with its latest use.
func (k *Key) View() Record {
	r := k.Record
	if at := k.used.Load(); at > 0 {
		r.LastUsed = time.Unix(at, 0).UTC()
	}
	return r
}

// IDBytes is the id, for what outlives no request.
func (k *Key) IDBytes() []byte { return k.id }

// State is active, expired or revoked.
func (k *Key) State(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case now.UnixNano() >= k.expires:
		return "expired"
	}
	return "active"
}

// Refused says in one word why the key is not good for a request, "" if it is: the key is over, or limited to other
// requests. path is the canonical one.
func (k *Key) Refused(now time.Time, from netip.Addr, method, path []byte) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case now.UnixNano() >= k.expires:
		return "expired"
	case len(k.CIDRs) > 0 && !k.mayComeFrom(from.Unmap()):
		return "key_address"
	case len(k.Methods) > 0 && !k.mayBe(method):
		return "key_method"
	case len(k.Paths) > 0 && !k.mayAsk(path):
		return "key_path"
	}
	return ""
}

func (k *Key) mayComeFrom(a netip.Addr) bool {
	for _, p := range k.CIDRs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (k *Key) mayBe(method []byte) bool {
	for _, m := range k.Methods {
		if m == string(method) {
			return true
		}
	}
	return false
}

func (k *Key) mayAsk(path []byte) bool {
	for _, p := range k.Paths {
		if p[0] == '=' {
			if string(path) == p[1:] {
				return true
			}
			continue
		}
		p = strings.TrimSuffix(p, "/")
		if len(path) >= len(p) && string(path[:len(p)]) == p && (len(path) == len(p) || path[len(p)] == '/') {
			return true
		}
	}
	return false
}

// Used notes a request that the key has authenticated.
func (k *Key) Used(now time.Time) { k.use(now.Unix()) }

func (k *Key) use(at int64) {
	// One store a second: cores that share a key would otherwise wait for each other's.
	for last := k.used.Load(); at > last && !k.used.CompareAndSwap(last, at); last = k.used.Load() {
	}
}

// usedOf is what versions of a record share; nil for none.
func usedOf(k *Key) *atomic.Int64 {
	if k == nil {
		return nil
	}
	return k.used
}

func sameKey(a, b *Key) bool { return bytes.Equal(a.sum[:], b.sum[:]) }

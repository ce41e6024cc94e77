package forwardauth

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/textproto"
	"strings"
	"sync"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

const keySize = sha256.Size

// part is one of the things by which requests share a decision: a header, or something else of the request.
type part struct {
	header  string // canonical
	special byte   // the first letter of one of specials, 0 for a header
}

var specials = []string{"@method", "@scheme", "@host", "@path", "@query", "@ip"}

func parsePart(name string) (part, error) {
	if !strings.HasPrefix(name, "@") {
		if !exchange.IsToken(name) {
			return part{}, policy.Wrong("cache.by", "%q can not be the name of a header", name)
		}
		return part{header: textproto.CanonicalMIMEHeaderKey(name)}, nil
	}
	for _, s := range specials {
		if s == strings.ToLower(name) {
			return part{special: s[1]}, nil
		}
	}
	return part{}, policy.Wrong("cache.by", "%q is none of %s, nor the name of a header", name, strings.Join(specials, ", "))
}

// key is a digest of what the settings name of a request: equal ones are equal in all of it. A header that is not there is not an empty one.
func (a *authenticator) key(x *exchange.Exchange) [keySize]byte {
	b := x.Scratch()
	add := func(b, value []byte) []byte {
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(value))), value...)
	}
	for _, p := range a.by {
		switch p.special {
		case 0:
			for _, value := range x.PeekAll(p.header) {
				b = add(append(b, 1), value)
			}
			b = append(b, 0)
		case 'm':
			b = add(b, x.Method())
		case 's':
			b = append(append(b, x.Scheme...), 0)
		case 'h':
			b = add(b, x.Host)
		case 'p':
			b = add(b, x.Path)
		case 'q':
			b = add(b, x.Query)
		case 'i':
			ip := x.ClientAddr.As16()
			b = append(b, ip[:]...)
		}
	}
	return sha256.Sum256(x.Keep(b))
}

// decisions are what is remembered, bounded in number; the oldest go first. All methods may be called concurrently.
type decisions struct{ shards [shardCount]shard }

const shardCount = 16

type shard struct {
	mu      sync.Mutex
	entries map[[keySize]byte]*entry
	oldest  *entry // in order of being put
	newest  *entry
}

type entry struct {
	key     [keySize]byte
	d       *decision
	expires int64
	next    *entry
}

func newDecisions() *decisions {
	s := new(decisions)
	for i := range s.shards {
		s.shards[i].entries = make(map[[keySize]byte]*entry)
	}
	return s
}

func (s *decisions) of(key *[keySize]byte) *shard { return &s.shards[key[0]%shardCount] }

func (s *decisions) get(key *[keySize]byte, now int64) *decision {
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[*key]; e != nil && now < e.expires {
		return e.d
	}
	return nil
}

// put remembers a decision where no more than most are remembered.
func (s *decisions) put(key *[keySize]byte, d *decision, expires int64, most int) {
	sh := s.of(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[*key]; e != nil {
		e.d, e.expires = d, expires
		return
	}
	for len(sh.entries) >= max(most/shardCount, 1) {
		delete(sh.entries, sh.oldest.key)
		sh.oldest = sh.oldest.next
	}
	e := &entry{key: *key, d: d, expires: expires}
	if sh.oldest == nil {
		sh.oldest = e
	} else {
		sh.newest.next = e
	}
	sh.newest = e
	sh.entries[*key] = e
}

// digest is the same for equal settings.
func digest(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic("BUG: settings are always JSON: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

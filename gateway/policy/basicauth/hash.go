package basicauth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// passwordHash is what is known of a password.
type passwordHash interface {
	matches(password []byte) bool
	// slow tells that matches takes milliseconds, on purpose.
	slow() bool
}

// parseHash reads sha256:HEX, a bcrypt hash, or argon2id in PHC form.
func parseHash(s string) (passwordHash, error) {
	switch {
	case strings.HasPrefix(s, "sha256:"):
		sum, err := hex.DecodeString(s[len("sha256:"):])
		if err != nil || len(sum) != sha256.Size {
			return nil, errors.New("this is no hash; write sha256: and 64 hexadecimal digits")
		}
		return sha256Hash(sum), nil
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		cost, err := bcrypt.Cost([]byte(s))
		if err != nil {
			return nil, fmt.Errorf("this is no bcrypt hash: %w", err)
		}
		if cost > maxBcryptCost {
			return nil, fmt.Errorf("bcrypt with cost %d takes too long; at most %d is computed", cost, maxBcryptCost)
		}
		return bcryptHash(s), nil
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon2(s)
	}
	return nil, errors.New("this is no hash; write sha256: and 64 hexadecimal digits, a bcrypt hash ($2b$…) or argon2id ($argon2id$…)")
}

type sha256Hash [sha256.Size]byte

func (h sha256Hash) matches(password []byte) bool {
	sum := sha256.Sum256(password)
	return subtle.ConstantTimeCompare(h[:], sum[:]) == 1
}

func (h sha256Hash) slow() bool { return false }

// maxBcryptCost takes about a second.
const maxBcryptCost = 14

type bcryptHash string

func (h bcryptHash) matches(password []byte) bool {
	return bcrypt.CompareHashAndPassword([]byte(h), password) == nil
}

func (h bcryptHash) slow() bool { return true }

type argon2Hash struct {
	time, memory uint32 // memory in KiB
	threads      uint8
	salt, sum    []byte
}

// maxArgon2Memory bounds what one password may occupy, in KiB.
const maxArgon2Memory = 128 << 10

// parseArgon2 reads $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH.
func parseArgon2(s string) (passwordHash, error) {
	bad := errors.New("this is no argon2id hash; it looks like $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, bad
	}
	h := &argon2Hash{}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); err != nil || fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.time, h.threads) != parts[3] {
		return nil, bad
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(h.salt) < 8 {
		return nil, bad
	}
	if h.sum, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return nil, bad
	}
	if h.time < 1 || h.time > 16 || h.threads < 1 || h.memory < 8 || h.memory > maxArgon2Memory {
		return nil, fmt.Errorf("argon2id with m=%d, t=%d, p=%d is out of range; m is 8 to %d KiB and t 1 to 16", h.memory, h.time, h.threads, maxArgon2Memory)
	}
	return h, nil
}

func (h *argon2Hash) matches(password []byte) bool {
	sum := argon2.IDKey(password, h.salt, h.time, h.memory, h.threads, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(h.sum, sum) == 1
}

func (h *argon2Hash) slow() bool { return true }

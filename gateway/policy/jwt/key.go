package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"math/bits"
	"slices"
	"strings"
	"sync"

	gojwt "github.com/golang-jwt/jwt/v5"
)

// algorithms is a set of signature algorithms, one bit each. "none" has no bit.
type algorithms uint16

const (
	hs256 algorithms = 1 << iota
	hs384
	hs512
	rs256
	rs384
	rs512
	ps256
	ps384
	ps512
	es256
	es384
	es512
	eddsa

	symmetric = hs256 | hs384 | hs512
	anyRSA    = rs256 | rs384 | rs512 | ps256 | ps384 | ps512
)

// methods are golang-jwt's implementations, in the order of the bits.
var methods = [...]gojwt.SigningMethod{
	gojwt.SigningMethodHS256, gojwt.SigningMethodHS384, gojwt.SigningMethodHS512,
	gojwt.SigningMethodRS256, gojwt.SigningMethodRS384, gojwt.SigningMethodRS512,
	gojwt.SigningMethodPS256, gojwt.SigningMethodPS384, gojwt.SigningMethodPS512,
	gojwt.SigningMethodES256, gojwt.SigningMethodES384, gojwt.SigningMethodES512,
	gojwt.SigningMethodEdDSA,
}

// algorithmOf returns the algorithm of that name (RFC 7518 section 3.1, RFC 8037), 0 if it is none of the accepted ones.
func algorithmOf(name string) algorithms {
	for i, m := range methods {
		if m.Alg() == name {
			return 1 << i
		}
	}
	return 0
}

// parseAlgorithms reads a configured list. An empty list is an empty set: each key then gets the default of its kind.
func parseAlgorithms(names []string) (set algorithms, err error) {
	for _, name := range names {
		a := algorithmOf(name)
		if a == 0 {
			if strings.EqualFold(name, "none") {
				return 0, errors.New(`algorithm "none" is never accepted`)
			}
			return 0, fmt.Errorf("unknown algorithm %q; use HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA", name)
		}
		set |= a
	}
	return set, nil
}

func (a algorithms) String() string {
	var names []string
	for i, m := range methods {
		if a&(1<<i) != 0 {
			names = append(names, m.Alg())
		}
	}
	return strings.Join(names, ", ")
}

// A Key verifies signatures with the algorithms it is pinned to and no other, so that a public key is never mistaken for
// the secret of an HMAC. It is immutable and safe for concurrent use.
type Key struct {
	id      string // kid; "" fits every token
	allowed algorithms
	public  any          // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	macs    [3]sync.Pool // of *mac, one pool an HMAC algorithm: keyed once, used often
}

// NewSecretKey makes an HMAC key. allowed may be empty: HS256.
func NewSecretKey(secret string, allowed algorithms) (*Key, error) {
	if secret == "" {
		return nil, errors.New("the secret is empty")
	}
	if block, _ := pem.Decode([]byte(secret)); block != nil && (block.Type == "CERTIFICATE" || strings.HasSuffix(block.Type, "PUBLIC KEY")) {
		return nil, errors.New("this is a public key, and everybody who has it could sign; write it as public_key")
	}
	if allowed == 0 {
		allowed = hs256
	}
	k := &Key{allowed: allowed & symmetric}
	if k.allowed == 0 {
		return nil, fmt.Errorf("a secret verifies HS256, HS384 or HS512, but algorithms lists only %s", allowed)
	}
	for i := range k.macs {
		newHash := methods[i].(*gojwt.SigningMethodHMAC).Hash.New
		k.macs[i].New = func() any { return &mac{Hash: hmac.New(newHash, []byte(secret))} }
	}
	return k, nil
}

// shortSecret returns how many bytes the secret should have for its algorithms (RFC 7518 section 3.2), 0 if it has them.
func shortSecret(secret string, allowed algorithms) (want int) {
	if allowed == 0 {
		allowed = hs256
	}
	for i := range methods[:3] {
		if size := methods[i].(*gojwt.SigningMethodHMAC).Hash.Size(); allowed&(1<<i) != 0 && len(secret) < size {
			want = size
		}
	}
	return want
}

// NewPublicKey makes a key of a PEM text: PKIX ("PUBLIC KEY"), PKCS #1 ("RSA PUBLIC KEY") or an X.509 certificate. allowed
// may be empty: RS256 for RSA, the algorithm of its curve for ECDSA, EdDSA for Ed25519.
func NewPublicKey(text string, allowed algorithms) (*Key, error) {
	public, err := parsePublicKey(text)
	if err != nil {
		return nil, err
	}
	fits, usual := fitting(public)
	if fits == 0 {
		return nil, fmt.Errorf("this key of type %T can not verify tokens", public)
	}
	if allowed == 0 {
		allowed = usual
	}
	if allowed&fits == 0 {
		return nil, fmt.Errorf("the public key verifies %s, but algorithms lists only %s", fits, allowed)
	}
	return &Key{allowed: allowed & fits, public: public}, nil
}

func parsePublicKey(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(strings.TrimSpace(text)))
	if block == nil {
		return nil, errors.New(`not PEM; it begins with "-----BEGIN PUBLIC KEY-----"`)
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	if strings.Contains(block.Type, "PRIVATE KEY") {
		return nil, errors.New("this is a private key; the gateway wants its public half")
	}
	return nil, fmt.Errorf("PEM of type %q is no public key", block.Type)
}

// fitting returns the algorithms a public key can verify, and the one it is taken for if nothing says more.
func fitting(public crypto.PublicKey) (fits, usual algorithms) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return anyRSA, rs256
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return es256, es256
		case 384:
			return es384, es384
		case 521:
			return es512, es512
		}
	case ed25519.PublicKey:
		if !isSmallOrder(k) {
			return eddsa, eddsa
		}
	}
	return 0, 0
}

// smallOrder are the y coordinates, little endian, of the points of Ed25519 whose order divides 8, with those that are not reduced. Under
// such a key somebody without its private half can sign, and crypto/ed25519 leaves it to its callers to refuse it.
var smallOrder = [...][ed25519.PublicKeySize]byte{
	{},
	{1},
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
	nearP(0xec), nearP(0xed), nearP(0xee), // p-1, p, p+1
}

// nearP is a number whose lowest byte is given and whose others are those of p = 2^255-19.
func nearP(low byte) (y [ed25519.PublicKeySize]byte) {
	for i := range y {
		y[i] = 0xff
	}
	y[0], y[31] = low, 0x7f
	return y
}

func isSmallOrder(k ed25519.PublicKey) bool {
	if len(k) != ed25519.PublicKeySize {
		return true
	}
	y := [ed25519.PublicKeySize]byte(k)
	y[31] &= 0x7f // the sign of x
	return slices.Contains(smallOrder[:], y)
}

// verify checks the signature over signed with exactly one algorithm. It keeps neither argument.
func (k *Key) verify(alg algorithms, signed string, signature []byte) bool {
	if k.allowed&alg == 0 {
		return false
	}
	i := bits.TrailingZeros16(uint16(alg))
	if alg&symmetric == 0 {
		return methods[i].Verify(signed, signature, k.public) == nil
	}
	m := k.macs[i].Get().(*mac)
	m.Reset()
	m.Write(bytesOf(signed))
	ok := hmac.Equal(signature, m.Sum(m.sum[:0]))
	k.macs[i].Put(m)
	return ok
}

// mac is a keyed HMAC with room for its result. A golang-jwt HMAC keys itself anew for every token, which costs two more
// blocks of hashing and eight allocations.
type mac struct {
	hash.Hash
	sum [64]byte
}

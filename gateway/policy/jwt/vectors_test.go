package jwt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
)

// The claims that a token of the vectors has unless it says otherwise.
const goodClaims = `{"iss":"https://issuer","aud":"api","sub":"alice","exp":1800000060}`

// vectorVerifier has a key of every kind, so that a token has every chance to be mistaken for another kind's.
func vectorVerifier() *Verifier {
	named := must(NewSecretKey("the secret of k1 that is long enough", 0))
	named.id = "k1"
	return NewVerifier(Settings{
		Own: Source{Keys: []*Key{
			must(NewSecretKey(testSecret, 0)), named, must(NewPublicKey(publicPEM(rsaKey), 0)),
			must(NewPublicKey(publicPEM(ec256Key), 0)), must(NewPublicKey(publicPEM(edKey), 0)),
		}},
		Issuer: "https://issuer", Audience: []string{"api"}, Required: []string{"exp"},
	})
}

// raw puts a signature behind what it is to cover.
func raw(header, payload string, sign func(text string) []byte) string {
	text := b64(header) + "." + b64(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
}

// TestNegativeVectors are the attacks on verifiers that are known, and what makes readers disagree.
func TestNegativeVectors(t *testing.T) {
	v := vectorVerifier()
	good := func(what, token string) {
		t.Helper()
		if _, reason := v.Verify([]byte(token), testNow.UnixNano()); reason != 0 {
			t.Errorf("%s: refused as %s: the vectors prove nothing", what, reason)
		}
	}
	refused := 0
	f := func(what, token string, want Reason) {
		t.Helper()
		refused++
		for range 2 { // nothing that was refused is remembered
			c, reason := v.Verify([]byte(token), testNow.UnixNano())
			if c != nil || reason == 0 {
				t.Errorf("%s: accepted", what)
			} else if reason != want {
				t.Errorf("%s: refused as %s, want %s", what, reason, want)
			}
		}
	}
	hs := func(header, payload string) string { return tokenWith(header, payload) }
	claims := func(payload string) string { return token(payload) }
	with := func(member string) string { return `{"iss":"https://issuer","aud":"api",` + member + `}` }

	good("HS256", hs(`{"alg":"HS256"}`, goodClaims))
	good("HS256 with kid", signed("HS256", []byte("the secret of k1 that is long enough"), `{"alg":"HS256","kid":"k1"}`, goodClaims))
	good("RS256", signed("RS256", rsaKey, `{"alg":"RS256"}`, goodClaims))
	good("ES256", signed("ES256", ec256Key, `{"alg":"ES256"}`, goodClaims))
	good("EdDSA", signed("EdDSA", edKey, `{"alg":"EdDSA"}`, goodClaims))
	good("escapes in alg that stand for themselves", hs(`{"\u0061lg":"\u0048S256"}`, goodClaims))

	// No algorithm, in all spellings, with and without something that looks like a signature.
	for _, alg := range []string{`"none"`, `"None"`, `"NONE"`, `"nOnE"`, `" none"`, `"none "`, `"\u006eone"`, `"none\u0000"`, `""`, `"null"`, `"HS256 "`, `"hs256"`, `"Hs256"`, `"HS256\n"`, `"HS1"`, `"RS1"`, `"ES256K"`, `"A128KW"`, `"dir"`} {
		header := `{"alg":` + alg + `}`
		f("unsigned "+alg, b64(header)+"."+b64(goodClaims)+".", WrongAlgorithm)
		f("signed "+alg, hs(header, goodClaims), WrongAlgorithm)
	}
	for _, header := range []string{`{}`, `{"typ":"JWT"}`, `{"ALG":"HS256"}`, `{"alg":null}`, `{"alg":0}`, `{"alg":["HS256"]}`, `{"alg":{"alg":"HS256"}}`, `{"alg":true}`, `{"alg":HS256}`} {
		f("alg that is no text: "+header, hs(header, goodClaims), Malformed)
	}
	f("no signature", strings.TrimRight(hs(`{"alg":"HS256"}`, goodClaims), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), BadSignature)
	f("a null signature", b64(`{"alg":"HS256"}`)+"."+b64(goodClaims)+"."+b64(strings.Repeat("\x00", 32)), BadSignature)

	// A public key as the secret of an HMAC.
	der := must(x509.MarshalPKIXPublicKey(rsaKey.Public()))
	pkcs1 := x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)
	for what, secret := range map[string][]byte{
		"RSA PEM":                      []byte(publicPEM(rsaKey)),
		"RSA PEM without its line end": []byte(strings.TrimSpace(publicPEM(rsaKey))),
		"RSA PKCS #1 PEM":              pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1}),
		"RSA DER":                      der,
		"RSA PKCS #1 DER":              pkcs1,
		"RSA modulus":                  rsaKey.N.Bytes(),
		"EC PEM":                       []byte(publicPEM(ec256Key)),
		"Ed25519 PEM":                  []byte(publicPEM(edKey)),
		"Ed25519 key":                  edKey.Public().(ed25519.PublicKey),
		"nothing":                      {},
		"NUL":                          {0},
		"null":                         []byte("null"),
	} {
		f("HS256 by "+what, signed("HS256", secret, `{"alg":"HS256"}`, goodClaims), BadSignature)
		f("HS512 by "+what, signed("HS512", secret, `{"alg":"HS512"}`, goodClaims), WrongAlgorithm)
		f("HS256 said to be RS256, by "+what, signed("HS256", secret, `{"alg":"RS256"}`, goodClaims), BadSignature)
	}

	// kid only chooses among the keys that are there.
	for _, kid := range []string{
		`"../../../../../../dev/null"`, `"/dev/null"`, `"..\\..\\nul"`, `"file:///dev/null"`, `"http://attacker.example/key"`, `"' UNION SELECT 'x' -- "`,
		`"k1'; DROP TABLE keys; --"`, `"| touch x"`, `"k1\u0000"`, `"K1"`, `" k1"`, `"k1,k1"`, `"*"`, `"%00"`, `"${jndi:ldap://attacker.example}"`, `"` + strings.Repeat("k", 4000) + `"`,
	} {
		what := "kid " + kid[:min(len(kid), 40)]
		f(what+" by the empty secret", signed("HS256", []byte{}, `{"alg":"HS256","kid":`+kid+`}`, goodClaims), BadSignature)
		f(what+" by x", signed("HS256", []byte("x"), `{"alg":"HS256","kid":`+kid+`}`, goodClaims), BadSignature)
		f(what+" by the key of k1", signed("HS256", []byte("the secret of k1 that is long enough"), `{"alg":"HS256","kid":`+kid+`}`, goodClaims), BadSignature)
	}
	for _, kid := range []string{`1`, `null`, `["k1"]`, `{"k":1}`, `true`, `"k1","kid":"k1"`, `"k1","\u006bid":"k1"`, `"\ud800"`} {
		f("kid "+kid, hs(`{"alg":"HS256","kid":`+kid+`}`, goodClaims), Malformed)
	}

	// Keys that the token brings along, or points at.
	mallory := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must(mallory.PublicKey.Bytes())
	jwk := fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:]))
	for _, member := range []string{
		`"jwk":` + jwk, `"jku":"https://attacker.example/keys"`, `"x5u":"https://attacker.example/cert"`, `"x5c":["` + base64.StdEncoding.EncodeToString(der) + `"]`,
		`"x5t":"AAAA"`, `"x5t#S256":"AAAA"`, `"jwk":` + jwk + `,"kid":"mallory"`,
	} {
		f("brought along: "+member[:min(len(member), 30)], signed("ES256", mallory, `{"alg":"ES256",`+member+`}`, goodClaims), BadSignature)
	}
	f("brought along: a secret", signed("HS256", []byte("x"), `{"alg":"HS256","jwk":{"kty":"oct","k":"eA"}}`, goodClaims), BadSignature)

	// Extensions, unencoded payloads, compression, encryption, nesting.
	for _, member := range []string{
		`"crit":["exp"],"exp":1`, `"crit":["b64"],"b64":false`, `"crit":["b64"],"b64":true`, `"crit":[]`, `"crit":"exp"`, `"crit":null`, `"crit":["alg"]`, `"crit":[""]`,
		`"crit":["unknown"],"unknown":1`, `"cr\u0069t":["exp"]`, `"b64":false`, `"b64":"true"`, `"b64":0`, `"b64":null`, `"b64":[]`, `"b64":true,"b64":true`,
		`"zip":"DEF"`, `"enc":"A128GCM"`, `"cty":"JWT"`, `"cty":"jwt"`, `"cty":"application/jwt"`, `"cty":1`,
	} {
		f("extension "+member, hs(`{"alg":"HS256",`+member+`}`, goodClaims), Malformed)
	}
	f("nested token", hs(`{"alg":"HS256","cty":"JWT"}`, hs(`{"alg":"HS256"}`, goodClaims)), Malformed)
	f("nested token that does not say so", hs(`{"alg":"HS256"}`, hs(`{"alg":"HS256"}`, goodClaims)), Malformed)
	f("nested token as text", hs(`{"alg":"HS256"}`, `"`+hs(`{"alg":"HS256"}`, goodClaims)+`"`), Malformed)

	// Another algorithm of the same key, another kind of signature under the name of the right one.
	for _, alg := range []string{"RS384", "RS512", "PS256", "PS384", "PS512"} {
		f(alg+" by a key for RS256", signed(alg, rsaKey, `{"alg":"`+alg+`"}`, goodClaims), WrongAlgorithm)
		f(alg+" said to be RS256", signed(alg, rsaKey, `{"alg":"RS256"}`, goodClaims), BadSignature)
		f("RS256 said to be "+alg, signed("RS256", rsaKey, `{"alg":"`+alg+`"}`, goodClaims), WrongAlgorithm)
	}
	f("HS512 said to be HS256", signed("HS512", []byte(testSecret), `{"alg":"HS256"}`, goodClaims), BadSignature)
	f("HS256 said to be HS384", hs(`{"alg":"HS384"}`, goodClaims), WrongAlgorithm)
	f("another algorithm twice", hs(`{"alg":"HS256","alg":"HS256"}`, goodClaims), Malformed)
	f("another algorithm behind an escape", hs(`{"alg":"HS256","al\u0067":"none"}`, goodClaims), Malformed)

	// Signatures over P-256: r and s are 32 bytes each and nothing else.
	es := func(sign func(r, s []byte) []byte) string {
		return raw(`{"alg":"ES256"}`, goodClaims, func(text string) []byte {
			sum := sha256.Sum256([]byte(text))
			r, s, err := ecdsa.Sign(rand.Reader, ec256Key, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			return sign(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32)))
		})
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	zero, order := make([]byte, 32), elliptic.P256().Params().N.Bytes()
	good("ES256 by hand", es(func(r, s []byte) []byte { return join(r, s) }))
	f("r and s are 0", es(func(r, s []byte) []byte { return join(zero, zero) }), BadSignature)
	f("r is 0", es(func(r, s []byte) []byte { return join(zero, s) }), BadSignature)
	f("s is 0", es(func(r, s []byte) []byte { return join(r, zero) }), BadSignature)
	f("r and s are the order", es(func(r, s []byte) []byte { return join(order, order) }), BadSignature)
	f("r is the order", es(func(r, s []byte) []byte { return join(order, s) }), BadSignature)
	f("s is the order", es(func(r, s []byte) []byte { return join(r, order) }), BadSignature)
	f("r and s are 1", es(func(r, s []byte) []byte { one := append(make([]byte, 31), 1); return join(one, one) }), BadSignature)
	f("r and s swapped", es(func(r, s []byte) []byte { return join(s, r) }), BadSignature)
	f("leading zeros", es(func(r, s []byte) []byte { return join([]byte{0}, r, []byte{0}, s) }), BadSignature)
	f("one byte more", es(func(r, s []byte) []byte { return join(r, s, []byte{0}) }), BadSignature)
	f("one byte less", es(func(r, s []byte) []byte { return join(r, s[:31]) }), BadSignature)
	f("r alone", es(func(r, s []byte) []byte { return r }), BadSignature)
	f("twice", es(func(r, s []byte) []byte { return join(r, s, r, s) }), BadSignature)
	f("ASN.1", es(func(r, s []byte) []byte {
		return must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)}))
	}), BadSignature)
	f("the size of another curve", es(func(r, s []byte) []byte { return join(make([]byte, 16), r, make([]byte, 16), s) }), BadSignature)
	f("ES384", signed("ES384", ec384Key, `{"alg":"ES384"}`, goodClaims), WrongAlgorithm)
	f("ES384 said to be ES256", signed("ES384", ec384Key, `{"alg":"ES256"}`, goodClaims), BadSignature)
	f("ES512", signed("ES512", ec521Key, `{"alg":"ES512"}`, goodClaims), WrongAlgorithm)
	// The twin (r, n-s) of a signature is one as well, by the mathematics; it says the same about the same text, so nothing is won by it.
	good("the twin", es(func(r, s []byte) []byte {
		return join(r, new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(s)).FillBytes(make([]byte, 32)))
	}))

	// Ed25519.
	ed := func(sign func(sig []byte) []byte) string {
		return raw(`{"alg":"EdDSA"}`, goodClaims, func(text string) []byte { return sign(ed25519.Sign(edKey, []byte(text))) })
	}
	f("EdDSA of zeros", ed(func([]byte) []byte { return make([]byte, 64) }), BadSignature)
	f("EdDSA of the identity", ed(func([]byte) []byte { return append([]byte{1}, make([]byte, 63)...) }), BadSignature)
	f("EdDSA without S", ed(func(sig []byte) []byte { return sig[:32] }), BadSignature)
	f("EdDSA with a byte more", ed(func(sig []byte) []byte { return append(sig, 0) }), BadSignature)
	f("EdDSA whose S is larger than the order", ed(func(sig []byte) []byte {
		l := must(hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")) // little endian
		carry := 0
		for i := range 32 {
			sum := int(sig[32+i]) + int(l[i]) + carry
			sig[32+i], carry = byte(sum), sum>>8
		}
		return sig
	}), BadSignature)
	f("HS256 by the Ed25519 key said to be EdDSA", signed("HS256", []byte(edKey.Public().(ed25519.PublicKey)), `{"alg":"EdDSA"}`, goodClaims), BadSignature)

	// Parts and encoding.
	token := hs(`{"alg":"HS256"}`, goodClaims)
	p := strings.Split(token, ".")
	for what, text := range map[string]string{
		"one part": p[0], "two parts": p[0] + "." + p[1], "four parts": token + "." + p[2], "five parts, as of encryption": token + ".." + p[2],
		"only dots": "..", "a dot before": "." + token, "a dot behind": token + ".", "no header": "." + p[1] + "." + p[2],
		"padding": token + "=", "padding in the header": p[0] + "=." + p[1] + "." + p[2], "escaped padding": token + "%3D",
		"a space": token + " ", "a tab before": "\t" + token, "a line end": token + "\n", "a line end inside": p[0] + ".\n" + p[1] + "." + p[2], "NUL": token + "\x00",
		"the alphabet of plain base64":    p[0] + "." + p[1] + "." + strings.Repeat("+/", 21) + "8",
		"stray bits":                      token[:len(token)-1] + next(token[len(token)-1]),
		"stray bits in the header":        strayHeader(p),
		"one character in the signature":  p[0] + "." + p[1] + ".A",
		"JSON serialization":              `{"protected":"` + p[0] + `","payload":"` + p[1] + `","signature":"` + p[2] + `"}`,
		"Bearer twice":                    "Bearer " + token,
		"quotes":                          `"` + token + `"`,
		"two tokens":                      token + "," + token,
		"letters of another alphabet":     strings.Replace(token, "e", "е", 1),
		"oversized by its payload":        hs(`{"alg":"HS256"}`, `{"x":"`+strings.Repeat("x", MaxTokenSize)+`"}`),
		"oversized by its header":         hs(`{"alg":"HS256","x":"`+strings.Repeat("x", MaxTokenSize)+`"}`, goodClaims),
		"oversized by its signature":      p[0] + "." + p[1] + "." + strings.Repeat("A", MaxTokenSize),
		"oversized without being a token": strings.Repeat("A", 1<<20),
		"a million dots":                  strings.Repeat(".", 1<<20),
	} {
		f(what, text, Malformed)
	}

	// JSON that readers read differently.
	for _, header := range []string{
		``, `null`, `[]`, `"HS256"`, `{"alg":"HS256"}}`, `{"alg":"HS256"}{}`, `{"alg":"HS256"}` + "\x00", `{"alg":"HS256",}`, `{"alg":"HS256"`, `{'alg':'HS256'}`,
		`{alg:"HS256"}`, `/**/{"alg":"HS256"}`, "\ufeff" + `{"alg":"HS256"}`, `{"alg":"HS256","x":01}`, `{"alg":"HS256","x":NaN}`, `{"alg":"HS256","x":+1}`, `{"alg":"HS256","x":0x1}`,
		"{\"alg\":\"HS256\",\"x\":\"\xff\"}", "{\"alg\":\"HS256\",\"x\":\"\n\"}", `{"alg":"HS256","x":"\x41"}`, `{"alg":"HS256","typ":"JWT","typ":"JWT"}`,
	} {
		f(fmt.Sprintf("header %q", header), hs(header, goodClaims), Malformed)
	}
	f("a header too deep", hs(`{"alg":"HS256","x":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`}`, goodClaims), Malformed)
	for _, payload := range []string{
		``, `null`, `[]`, `"alice"`, `42`, goodClaims + `x`, goodClaims + goodClaims, goodClaims[:len(goodClaims)-1], "\ufeff" + goodClaims,
		with(`"exp":1800000060,"exp":1`), with(`"exp":1800000060,"\u0065xp":1900000000`), with(`"exp":1800000060,"sub":"alice","sub":"mallory"`), with(`"exp":1800000060,"aud":"api"`), with(`"exp":1800000060,"iss":"https://issuer"`),
		with(`"exp":1800000060,"sub":"a\u0000b"`), with(`"exp":1800000060,"sub":"a\r\nX-Admin: 1"`), with(`"exp":1800000060,"sub":["alice"]`), with(`"exp":1800000060,"sub":{}`), with(`"exp":1800000060,"sub":true`),
	} {
		f(fmt.Sprintf("payload %.60q", payload), claims(payload), Malformed)
	}

	// Times.
	for _, exp := range []string{
		`"1800000060"`, `"never"`, `null`, `true`, `[]`, `{}`, `""`, `1e999`, `-1e999`, `1e300`, `9223372036854775808`, `18446744073709551616`, `253402300800`, `NaN`, `Infinity`, `-`, `1.`, `.5`, `01800000060`, `0x6B49D200`, `1800000060n`, `1_800_000_060`,
	} {
		f("exp "+exp, claims(with(`"exp":`+exp)), Malformed)
	}
	for _, exp := range []string{`0`, `-0`, `-1`, `-1800000060`, `1`, `1799999999`, `1800000000`, `1800000000.999`, `1.8e9`, `1e0`, `-9e9`} {
		f("exp "+exp, claims(with(`"exp":`+exp)), Expired)
	}
	f("no exp", claims(`{"iss":"https://issuer","aud":"api"}`), MissingClaim)
	f("exp in other letters", claims(with(`"EXP":1800000060`)), MissingClaim)
	f("exp one level down", claims(with(`"claims":{"exp":1800000060}`)), MissingClaim)
	for _, claim := range []string{"nbf", "iat"} {
		f(claim+" in the future", claims(with(`"exp":1800000060,"`+claim+`":1800000001`)), NotYetValid)
		f(claim+" in the future by a fraction", claims(with(`"exp":1800000060,"`+claim+`":1800000000.001`)), NotYetValid)
		f(claim+" at the end of time", claims(with(`"exp":1800000060,"`+claim+`":253402300799`)), NotYetValid)
		f(claim+" as text", claims(with(`"exp":1800000060,"`+claim+`":"1700000000"`)), Malformed)
		f(claim+" null", claims(with(`"exp":1800000060,"`+claim+`":null`)), Malformed)
		f(claim+" beyond time", claims(with(`"exp":1800000060,"`+claim+`":-1e300`)), Malformed)
	}

	// Issuer and audience.
	for _, iss := range []string{`"https://issuer/"`, `"https://ISSUER"`, `"https://issuer.attacker.example"`, `" https://issuer"`, `"https://issuer\u0000"`, `"http://issuer"`, `""`} {
		f("iss "+iss, claims(`{"iss":`+iss+`,"aud":"api","exp":1800000060}`), WrongIssuer)
	}
	for _, iss := range []string{`["https://issuer"]`, `null`, `1`, `{"https://issuer":1}`} {
		f("iss "+iss, claims(`{"iss":`+iss+`,"aud":"api","exp":1800000060}`), Malformed)
	}
	f("no iss", claims(`{"aud":"api","exp":1800000060}`), WrongIssuer)
	for _, aud := range []string{`"other"`, `"API"`, `"api "`, `"other api"`, `"api,other"`, `""`, `[]`, `["other"]`, `["api2","ap"]`} {
		f("aud "+aud, claims(`{"iss":"https://issuer","aud":`+aud+`,"exp":1800000060}`), WrongAudience)
	}
	for _, aud := range []string{`null`, `1`, `{"api":1}`, `[1]`, `["api",1]`, `[["api"]]`, `true`} {
		f("aud "+aud, claims(`{"iss":"https://issuer","aud":`+aud+`,"exp":1800000060}`), Malformed)
	}
	f("no aud", claims(`{"iss":"https://issuer","exp":1800000060}`), WrongAudience)

	if n := v.cache.len.Load(); n != 8 {
		t.Errorf("%d tokens are remembered, want the good ones alone", n)
	}
	if refused < 80 {
		t.Errorf("only %d vectors", refused)
	}
	t.Logf("%d vectors", refused)
}

// next is the character of base64url whose last bit differs.
func next(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// strayHeader signs a header whose last character has bits that stand for nothing: the signature is right, the text not canonical.
func strayHeader(p []string) string {
	header := b64(`{"alg":"HS256" }`)
	text := header[:len(header)-1] + next(header[len(header)-1]) + "." + p[1]
	return text + "." + base64.RawURLEncoding.EncodeToString(must(gojwt.SigningMethodHS256.Sign(text, []byte(testSecret))))
}

// TestWeakKeys: keys under which anybody can sign are refused when they are configured.
func TestWeakKeys(t *testing.T) {
	for _, point := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			key := ed25519.PublicKey(bytes.Clone(point[:]))
			key[31] |= sign
			// For one text in eight at most, somebody who knows no private key has a signature.
			forged := false
			for i := range 256 {
				for _, r := range smallOrder {
					for _, rSign := range []byte{0, 0x80} {
						sig := append(bytes.Clone(r[:]), make([]byte, 32)...)
						sig[31] |= rSign
						forged = forged || ed25519.Verify(key, fmt.Append(nil, i), sig)
					}
				}
			}
			text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))}))
			if _, err := NewPublicKey(text, 0); err == nil {
				t.Errorf("%x is taken for a key; forged: %t", key, forged)
			}
			if canonical := point[31] != 0x7f || point[0] == 0xec; canonical && !forged && sign == 0 {
				t.Errorf("%x stands in the list and is not weak", key)
			}
		}
	}
	if _, err := NewSecretKey(publicPEM(rsaKey), 0); err == nil || !strings.Contains(err.Error(), "public_key") {
		t.Errorf("a public key is taken for a secret: %v", err)
	}
	if _, err := NewPublicKey(publicPEM(ec256Key), es384); err == nil {
		t.Error("a key of P-256 is taken for ES384")
	}
}

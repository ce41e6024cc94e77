package main

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/cobra"
)

func tokenCommand() *cobra.Command {
	var o tokenOptions
	c := &cobra.Command{
		Use:   "token --sub NAME (--secret S | --key FILE)",
		Short: "print a signed JWT for trying things out",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := o.sign(time.Now())
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintln(c.OutOrStdout(), t)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.subject, "sub", "", "subject: the claim sub")
	durationVar(f, &o.ttl, "ttl", time.Hour, "time until the token expires; a negative one makes an expired token")
	f.StringArrayVar(&o.claims, "claim", nil, "k=v, further claims; v is JSON where it reads as JSON, else text; repeatable")
	f.StringVar(&o.secret, "secret", "", "secret of HS256, HS384 and HS512")
	f.StringVar(&o.key, "key", "", "file of a private key, PEM")
	f.StringVar(&o.algorithm, "alg", "", "algorithm; default: HS256 with --secret, else what fits the key")
	f.StringVar(&o.keyID, "kid", "", "key id in the token's header")
	return c
}

type tokenOptions struct {
	subject, secret, key, algorithm, keyID string
	ttl                                    time.Duration
	claims                                 []string
}

func (o *tokenOptions) sign(now time.Time) (string, error) {
	claims := jwt.MapClaims{"iat": now.Unix(), "exp": now.Add(o.ttl).Unix()}
	if o.ttl < 0 {
		claims["iat"] = now.Add(2 * o.ttl).Unix()
	}
	if o.subject != "" {
		claims["sub"] = o.subject
	}
	for _, c := range o.claims {
		k, v, ok := strings.Cut(c, "=")
		if !ok || k == "" {
			return "", fmt.Errorf("--claim %q: must be NAME=VALUE", c)
		}
		claims[k] = claimValue(v)
	}
	key, algorithm, err := o.signer()
	if err != nil {
		return "", err
	}
	method := jwt.GetSigningMethod(algorithm)
	if method == nil || algorithm == "none" {
		return "", fmt.Errorf("--alg %q: is none of HS, RS, PS, ES 256 to 512 and EdDSA", algorithm)
	}
	t := jwt.NewWithClaims(method, claims)
	if o.keyID != "" {
		t.Header["kid"] = o.keyID
	}
	signed, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("cannot sign with %s: %w", algorithm, err)
	}
	return signed, nil
}

func (o *tokenOptions) signer() (key any, algorithm string, err error) {
	switch {
	case (o.secret == "") == (o.key == ""):
		return nil, "", errors.New("give --secret S or --key FILE")
	case o.secret != "":
		algorithm = "HS256"
		key = []byte(o.secret)
	default:
		pem, err := os.ReadFile(o.key)
		if err != nil {
			return nil, "", fmt.Errorf("--key: %w", err)
		}
		if key, algorithm, err = parseKey(pem); err != nil {
			return nil, "", fmt.Errorf("--key %s: %w", o.key, err)
		}
	}
	if o.algorithm != "" {
		algorithm = o.algorithm
	}
	return key, algorithm, nil
}

// parseKey reads a private key and names the algorithm that fits it.
func parseKey(pem []byte) (crypto.PrivateKey, string, error) {
	if k, err := jwt.ParseRSAPrivateKeyFromPEM(pem); err == nil {
		return k, "RS256", nil
	}
	if k, err := jwt.ParseECPrivateKeyFromPEM(pem); err == nil {
		return k, map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize], nil
	}
	if k, err := jwt.ParseEdPrivateKeyFromPEM(pem); err == nil {
		return k, "EdDSA", nil
	}
	return nil, "", errors.New("holds no RSA, EC or Ed25519 private key in PEM")
}

func claimValue(text string) any {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return text
	}
	return v
}

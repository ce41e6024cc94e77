package hmacauth

import (
	"encoding/base64"
	"testing"
)

// FuzzCredential holds what is read to what was written: a credential that is taken can be written again and reads the same.
func FuzzCredential(f *testing.F) {
	f.Add(`username="alice", algorithm="hmac-sha256", headers="date", signature="AAAA"`)
	f.Add(`signature="AA==",headers="host date @request-target" , algorithm="x",USERNAME="a b"`)
	f.Add(`username="a\"b", algorithm="", headers="date"`)
	f.Fuzz(func(t *testing.T, text string) {
		var c credential
		if !c.parse([]byte(text)) {
			return
		}
		signature := base64.StdEncoding.EncodeToString(c.signature[:c.size])
		again := `username="` + string(c.username) + `", algorithm="` + string(c.algorithm) + `", headers="` + string(c.headers) + `", signature="` + signature + `"`
		var d credential
		if !d.parse([]byte(again)) || string(d.username) != string(c.username) || string(d.algorithm) != string(c.algorithm) ||
			string(d.headers) != string(c.headers) || d.size != c.size || d.signature != c.signature {
			t.Fatalf("%q reads as %q", text, again)
		}
	})
}

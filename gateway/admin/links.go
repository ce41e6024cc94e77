package admin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sluice/gateway/durable"
)

// link is what a signed link says: whose page it opens, until when, and whether keys may be changed there.
type link struct {
	ID       string `json:"i"`
	Consumer string `json:"c"`
	// Tenant that the consumer had when the link was made. A consumer of that name in another tenant is another one.
	Tenant  string `json:"t,omitempty"`
	Expires int64  `json:"e"` // Unix seconds
	Change  bool   `json:"w,omitempty"`
}

const (
	// linkKeyFile in state.dir is the key that links are signed with. It is read anew each time, so that all processes of the
	// folder sign with the same one, and one that was replaced is good nowhere.
	linkKeyFile = "links.key"
	linkKeySize = 32
	// linkPurpose keeps a signature from being good for anything but a link.
	linkPurpose = "sluice developer link 1\n"
	// maxLink bounds what is looked at: names of consumers are short.
	maxLink = 4 << 10

	defaultLinkTime = 24 * time.Hour
	maxLinkTime     = 30 * 24 * time.Hour
)

// signLink makes a link's token. The first one makes the key.
func (s *Server) signLink(dir string, l *link) (string, error) {
	s.linking.Lock()
	defer s.linking.Unlock()
	key, err := readLinkKey(dir)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newLinkKey(dir)
	}
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(l)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	said := base64.RawURLEncoding.EncodeToString(text)
	return said + "." + base64.RawURLEncoding.EncodeToString(linkMAC(key, said)), nil
}

// openLink returns what a token says, nil unless it was signed with the key of the folder and has not expired. How long the
// comparison takes does not depend on how much of the signature is right.
func openLink(dir, token string, now time.Time) *link {
	if dir == "" || len(token) > maxLink {
		return nil
	}
	said, signature, _ := strings.Cut(token, ".")
	given, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil || len(given) != sha256.Size {
		return nil
	}
	key, err := readLinkKey(dir)
	if err != nil || !hmac.Equal(given, linkMAC(key, said)) {
		return nil
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(said)
	if err != nil {
		return nil
	}
	l := new(link)
	if json.Unmarshal(text, l) != nil || l.Consumer == "" || now.Unix() >= l.Expires {
		return nil
	}
	return l
}

func linkMAC(key []byte, said string) []byte {
	m := hmac.New(sha256.New, key)
	_, _ = m.Write([]byte(linkPurpose + said)) // never fails
	return m.Sum(nil)
}

func readLinkKey(dir string) ([]byte, error) {
	key, err := os.ReadFile(filepath.Join(dir, linkKeyFile))
	if err == nil && len(key) != linkKeySize {
		err = errors.New(filepath.Join(dir, linkKeyFile) + " is no signing key; DELETE /api/links makes a new one")
	}
	if err != nil {
		return nil, err
	}
	return key, nil
}

// newLinkKey puts a key in the place of the one there is: no link that was made before is good any more.
func newLinkKey(dir string) ([]byte, error) {
	key := make([]byte, linkKeySize)
	_, _ = rand.Read(key) // never fails
	return key, durable.Replace(filepath.Join(dir, linkKeyFile), key)
}

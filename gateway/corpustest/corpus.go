// Package corpustest reads and writes the corpus of ambiguous and hostile
// messages, for the tests that hold the gateway to it and for whatever else is
// to be put in front of it. Its files are gateway/testdata/corpus/*.json.
package corpustest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// The files of the corpus.
const (
	RequestsFile  = "requests.json"
	ResponsesFile = "responses.json"
)

// Octets are bytes; in JSON each is one code point, U+0000 to U+00FF.
type Octets string

// MarshalJSON implements json.Marshaler.
func (o Octets) MarshalJSON() ([]byte, error) {
	runes := make([]rune, len(o))
	for i := range len(o) {
		runes[i] = rune(o[i])
	}
	return json.Marshal(string(runes))
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *Octets) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	raw := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return fmt.Errorf("%q holds a code point that is no byte", r)
		}
		raw = append(raw, byte(r))
	}
	*o = Octets(raw)
	return nil
}

// Request is what a client sends on one connection, and what comes of it.
type Request struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	Send  Octets `json:"send"`
	// Status of every answer, in order. 100 is an interim response.
	Status []int `json:"status"`
	// Closed: the connection ends behind the last answer.
	Closed bool `json:"closed"`
	// Backend is every whole request that the backend saw, byte by byte, but
	// for the field X-Correlation-ID, which is left out.
	Backend []Octets `json:"backend"`
}

// Response is what a backend sends, and what the client has of it.
type Response struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	// Method of the client's request.
	Method string `json:"method"`
	Send   Octets `json:"send"`
	// Close: the backend closes the connection behind it.
	Close bool `json:"close"`
	// Status of the client's answer; 0: its connection ends without one.
	Status int `json:"status"`
	// Body that the client reads; Cut, that its connection ends before the
	// body's end.
	Body Octets `json:"body"`
	Cut  bool   `json:"cut"`
	// Reused: the next request comes on the same connection to the backend.
	Reused bool `json:"reused"`
	// Cached: the next request for the same is answered from the cache.
	Cached bool `json:"cached"`
}

// Requests reads the requests of the corpus in dir.
func Requests(dir string) ([]Request, error) { return read[Request](dir, RequestsFile) }

// Responses reads the responses of the corpus in dir.
func Responses(dir string) ([]Response, error) { return read[Response](dir, ResponsesFile) }

func read[T any](dir, name string) (all []T, err error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// Encode writes a table as its file holds it.
func Encode[T Request | Response](table []T) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(table)
	return b.Bytes(), err
}

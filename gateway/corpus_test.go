package gateway_test

import (
	"bytes"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"sluice/gateway/corpustest"
)

// The corpus of ambiguous and hostile messages is written in Go, and kept as
// JSON under testdata/corpus for other programs; -corpus writes it there.
var writeCorpus = flag.Bool("corpus", false, "write testdata/corpus")

// corpus compares the table with its file.
func corpus[T corpustest.Request | corpustest.Response](t *testing.T, name string, table []T, read func(dir string) ([]T, error)) {
	t.Helper()
	b, err := corpustest.Encode(table)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join("testdata", "corpus")
	path := filepath.Join(dir, name)
	if *writeCorpus {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(path); err != nil || !bytes.Equal(kept, b) {
		t.Errorf("%s is not what the table says; run the test with -corpus: %v", path, err)
	}
	if kept, err := read(dir); err != nil || !reflect.DeepEqual(kept, table) {
		t.Errorf("%s reads as something else: %v", path, err)
	}
}

// witness is a backend that keeps what it saw, raw.
type witness struct {
	*server
	mu   sync.Mutex
	seen []corpustest.Octets
}

// tap keeps what is read.
type tap struct {
	net.Conn
	got bytes.Buffer
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.got.Write(p[:n])
	return n, err
}

func newWitness(t *testing.T) *witness {
	w := &witness{}
	w.server = backend(t, func(p *peer) {
		c := &tap{Conn: p.conn}
		p.r.Reset(c)
		for {
			head := p.head()
			if head == "" {
				return
			}
			_, _ = p.body(head)
			raw := c.got.String()
			c.got.Reset()
			if i := strings.Index(raw, "X-Correlation-ID: "); i >= 0 {
				end := i + strings.Index(raw[i:], "\r\n") + 2
				raw = raw[:i] + raw[end:]
			}
			w.mu.Lock()
			w.seen = append(w.seen, corpustest.Octets(raw))
			w.mu.Unlock()
			if _, err := io.WriteString(p.conn, okAnswer); err != nil {
				return
			}
		}
	})
	return w
}

func (w *witness) take() []corpustest.Octets {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

func TestCorpusRequests(t *testing.T) {
	table := requestCorpus()
	corpus(t, corpustest.RequestsFile, table, corpustest.Requests)
	if len(table) < 150 {
		t.Errorf("only %d requests", len(table))
	}
	w := newWitness(t)
	g := forward(t, w.server, "host: backend.example", "", "limits: {max_header_size: 8KiB, header_timeout: 500ms}\n")
	names := map[string]bool{}
	for _, c := range table {
		name := c.Group + "/" + c.Name
		if names[name] {
			t.Errorf("%s is there twice", name)
		}
		names[name] = true
		t.Run(name, func(t *testing.T) {
			g.judge(t, &c)
			seen := w.take()
			if len(seen) != len(c.Backend) {
				t.Fatalf("%q: the backend saw %q", abbreviate(string(c.Send)), seen)
			}
			for i := range seen {
				if seen[i] != c.Backend[i] {
					t.Errorf("%q: the backend saw\n%q, not\n%q", abbreviate(string(c.Send)), seen[i], c.Backend[i])
				}
			}
		})
	}
	once(t, "every connection is given up", func() bool { return g.active() == 0 })
}

func (g *gate) judge(t *testing.T, c *corpustest.Request) {
	t.Helper()
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	p := newPeer(t, nc)
	p.send(string(c.Send))
	for _, status := range c.Status {
		head := p.head()
		if statusOf(head) != status {
			t.Fatalf("%q: want %d, got %q", abbreviate(string(c.Send)), status, head)
		}
		if status == 100 || strings.HasPrefix(string(c.Send), "HEAD ") {
			continue
		}
		body, _ := p.body(head)
		if ct, _ := field(head, "Content-Type"); status >= 400 && ct != "application/problem+json" {
			t.Errorf("%q: %q %q", abbreviate(string(c.Send)), head, body)
		}
		if v, _ := field(head, "Connection"); status >= 400 && c.Closed && v != "close" {
			t.Errorf("%q: %q", abbreviate(string(c.Send)), head)
		}
	}
	if !c.Closed {
		// It goes on where the request ended.
		p.send("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if head := p.head(); statusOf(head) != 204 {
			t.Errorf("%q: the connection goes on with %q", abbreviate(string(c.Send)), head)
		}
	}
	p.ended()
}

// What comes right behind a request to upgrade is the tunnel's if there is
// one, whatever it looks like, and a request if not.
func TestBytesBehindUpgrade(t *testing.T) {
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			if !strings.HasPrefix(head, "GET /yes ") {
				p.send(okAnswer)
				continue
			}
			p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
			_, _ = io.Copy(p.conn, p.r)
			return
		}
	})
	g := forward(t, s, "", "", "")
	const upgrade = " HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
	raw := "\x00\xff\r\n\nGET / HTTP/1.1\nX : y\r\n\r\n"
	c := g.client()
	c.send("GET /yes" + upgrade + raw)
	if head := c.head(); statusOf(head) != 101 {
		t.Fatalf("%q", head)
	}
	c.send(raw)
	if got := c.bytes(2 * len(raw)); got != raw+raw {
		t.Errorf("%q came back", got)
	}
	c.close()

	c = g.client()
	c.send("GET /no" + upgrade + "GET /no" + upgrade + "GET / HTTP/1.1\r\nHost: a\r\n\r\n\x00")
	for range 3 {
		c.wants(200, "ok")
	}
	c.refused(400, "malformed_request")
	c.ended()
}

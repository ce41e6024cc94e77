package gateway_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// paced is a gateway with answers of many kinds, each of size bytes, which are paced. Times are lower bounds alone: a slow
// machine only makes them longer.
func paced(t *testing.T, settings string, size int) (addr string) {
	t.Helper()
	body := strings.Repeat("x", size)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/held", "/cached":
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, body)
		case "/streamed":
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, body)
		case "/upgraded":
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n" + body)
			_ = rw.Flush()
		}
	})}
	go func() { _ = backend.Serve(ln) }()
	t.Cleanup(func() { _ = backend.Close() })
	c, err := config.Parse("test.yaml", []byte(`
listeners: {main: {address: "127.0.0.1:0", h2c: true}}
services: {s: {endpoints: ["http://`+ln.Addr().String()+`"]}}
policies: {bandwidth: `+settings+`}
routes:
  all: {match: {paths: [/]}, service: s}
  cached: {match: {paths: [/cached]}, service: s, policies: {cache: {}}}
  own: {match: {paths: [/own]}, respond: {body: "`+body+`"}}
  free: {match: {paths: [/free]}, policies: {bandwidth: off}, respond: {body: "`+body+`"}}
`), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), DrainTimeout: time.Second})
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	return g.Listeners()[0].Address
}

func plainClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func streamsClient(t *testing.T) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// fetch gets all of an answer and says how long it took.
func fetch(t *testing.T, client *http.Client, url string, size int) time.Duration {
	t.Helper()
	begun := time.Now()
	res, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n != int64(size) || res.StatusCode != 200 {
		t.Errorf("%s: %d with %d bytes, %v", url, res.StatusCode, n, err)
	}
	return time.Since(begun)
}

// Whoever made the answer, what is beyond the burst takes its time.
func TestBandwidthOfAnAnswer(t *testing.T) {
	const size = 48 << 10
	addr := paced(t, "{rate: 160KiB, burst: 1KiB}", size)
	least := 47 * time.Second / 160
	f := func(client *http.Client, path string) {
		t.Helper()
		if took := fetch(t, client, "http://"+addr+path, size); took < least {
			t.Errorf("%s took %s, want %s at least", path, took, least)
		}
	}
	for _, path := range [...]string{"/held", "/streamed", "/cached", "/cached", "/own"} {
		f(plainClient(t), path)
		f(streamsClient(t), path)
	}
}

// The pace ends with the request that it was for: the next answer would take a minute at it.
func TestBandwidthEndsWithItsRequest(t *testing.T) {
	const size = 60 << 10
	addr := paced(t, "{rate: 1KiB, burst: 62KiB}", size)
	for _, client := range [...]*http.Client{plainClient(t), streamsClient(t)} {
		fetch(t, client, "http://"+addr+"/own", size)
		fetch(t, client, "http://"+addr+"/free", size)
	}
}

func TestBandwidthOfATunnel(t *testing.T) {
	const size = 48 << 10
	addr := paced(t, "{rate: 160KiB, burst: 1KiB}", size)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	begun := time.Now()
	_, _ = io.WriteString(conn, "GET /upgraded HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v, %v", res, err)
	}
	n, err := io.Copy(io.Discard, br)
	if took := time.Since(begun); n != size || err != nil || took < 47*time.Second/160 {
		t.Errorf("%d bytes in %s, %v", n, took, err)
	}
}

// Streams of one connection share its rate, and connections by address share theirs.
func TestBandwidthIsShared(t *testing.T) {
	const size = 32 << 10
	f := func(settings string, client func() *http.Client) {
		t.Helper()
		addr := paced(t, settings, size)
		begun := time.Now()
		var all sync.WaitGroup
		for range 4 {
			c := client()
			all.Go(func() { fetch(t, c, "http://"+addr+"/own", size) })
		}
		all.Wait()
		if took, least := time.Since(begun), (4*32-1)*time.Second/320; took < least {
			t.Errorf("%s: 4 answers took %s, want %s at least", settings, took, least)
		}
	}
	one := streamsClient(t)
	f("{rate: 320KiB, burst: 1KiB}", func() *http.Client { return one })
	f("{rate: 320KiB, burst: 1KiB, by: ip}", func() *http.Client { return plainClient(t) })
}

// A client that leaves is not waited for to the end, nor is one that is slow taken for one that has stalled.
func TestBandwidthOfAClientThatLeaves(t *testing.T) {
	addr := paced(t, "{rate: 1KiB, burst: 1KiB}", 64<<10)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /own HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	// The gateway ends with the test: it would not within its drain timeout and the test's patience.
}

// A crowd that asks and leaves is not waited for.
func TestBandwidthOfThoseWhoLeft(t *testing.T) {
	g := forward(t, mirrored(t), "", "", "policies: {bandwidth: {rate: 1KiB, burst: 1KiB, by: route}}")
	for range 300 { // some 60 KiB, which are a minute's
		p := g.client()
		p.request("GET /")
		_ = p.conn.Close()
	}
	once(t, "the last of them has gone", func() bool { return g.active() == 0 })
	p := g.client()
	p.request("GET /")
	if head, _ := p.response(); statusOf(head) != 200 { // within the patience of a test
		t.Error(head)
	}
}

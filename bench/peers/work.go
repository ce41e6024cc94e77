//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"sluice/bench/load"
)

// mode is what a gateway is configured for.
type mode string

const (
	proxying mode = "proxy"
	limiting mode = "limit"
	tokens   mode = "jwt"
	watching mode = "observed" // sluice's tokens and limits, and the same with traces and usage besides
	caching  mode = "cache"
	secure   mode = "tls"
	multi    mode = "h2"  // HTTP/2 over TLS
	clear    mode = "h2c" // HTTP/2 without TLS, by prior knowledge
)

// work is something that gateways do and that is measured.
type work struct {
	name, title string
	mode        mode
	path        string
	post        int // length of the request's body; 0: GET
	answer      int // length of the answer's body
	connections int
	streams     int  // with HTTP/2: requests at once on each connection
	rate        int  // requests per second; 0: closed loop
	idle        bool // the connections are answered once, then held
	handshakes  bool // each request on a TLS connection of its own
	bars        []bar
}

// bar is what a gateway may cost, as a multiple of another in the same round.
type bar struct {
	gateway, other string
	most           float64
}

var works = []*work{
	{name: "proxy-300", title: "proxy 300 B, saturated", mode: proxying, path: "/300", answer: 300, connections: 64,
		bars: []bar{{subject, "haproxy", 1.08}, {subject, "nginx", 1.15}, {subject, "traefik", 0.48}, {looping, "haproxy", 1}}},
	{name: "proxy-10k", title: "proxy 10 KiB, saturated", mode: proxying, path: "/10k", answer: 10 << 10, connections: 64,
		bars: []bar{{subject, "haproxy", 1.1}}},
	{name: "proxy-1m", title: "proxy 1 MiB, saturated", mode: proxying, path: "/1m", answer: 1 << 20, connections: 16},
	{name: "post-1k", title: "POST 1 KiB, saturated", mode: proxying, path: "/300", post: 1 << 10, answer: 300, connections: 64,
		bars: []bar{{subject, "haproxy", 1.15}}},
	{name: "post-1m", title: "POST 1 MiB, saturated", mode: proxying, path: "/300", post: 1 << 20, answer: 300, connections: 16},
	{name: "limit", title: "limit by address, 300 B, saturated", mode: limiting, path: "/300", answer: 300, connections: 64},
	{name: "jwt-limit", title: "JWT HS256 (8 tokens) and limit by subject, 300 B, saturated; sluice with correlation id, metrics and access log too", mode: tokens, path: "/300", answer: 300, connections: 64,
		bars: []bar{{subject, "haproxy", 0.82}, {looping, "haproxy", 0.78}}},
	{name: "observed", title: "sluice at the work jwt-limit, and with every tenth request traced and usage kept besides", mode: watching, path: "/300", answer: 300, connections: 64,
		bars: []bar{{observed, subject, 1.05}}},
	{name: "cached-300", title: "cached 300 B, saturated", mode: caching, path: "/cached", answer: 300, connections: 64,
		bars: []bar{{subject, "haproxy", 0.92}, {subject, "nginx", 0.68}}},
	{name: "tls-300", title: "proxy 300 B over TLS 1.3, keep-alive; the client's TLS may leave the gateway idle time", mode: secure, path: "/300", answer: 300, connections: 64,
		bars: []bar{{subject, "nginx", 1.05}}},
	{name: "handshakes", title: "a TLS 1.3 handshake (ECDSA P-256, no resumption) and a request", mode: secure, path: "/300", answer: 300, connections: 16, handshakes: true,
		bars: []bar{{subject, "nginx", 1}}},
	{name: "h2-300", title: "proxy 300 B over HTTP/2 and TLS 1.3, 8 connections of 8 streams; the client may leave the gateway idle time", mode: multi, path: "/300", answer: 300, connections: 8, streams: 8},
	{name: "h2-10k", title: "proxy 10 KiB over HTTP/2 and TLS 1.3, 8 connections of 8 streams; the client may leave the gateway idle time", mode: multi, path: "/10k", answer: 10 << 10, connections: 8, streams: 8},
	{name: "h2c-300", title: "proxy 300 B over HTTP/2 without TLS, 8 connections of 8 streams", mode: clear, path: "/300", answer: 300, connections: 8, streams: 8},
	{name: "open-5000", title: "proxy 300 B, 5,000/s open loop", mode: proxying, path: "/300", answer: 300, connections: 64, rate: 5000,
		bars: []bar{{subject, "haproxy", 1.3}, {looping, "haproxy", 1.15}}},
	{name: "open-500", title: "proxy 300 B, 500/s open loop", mode: proxying, path: "/300", answer: 300, connections: 64, rate: 500},
	{name: "idle-1000", title: "1,000 idle connections", mode: proxying, path: "/300", answer: 300, connections: 1000, idle: true},
	{name: "idle-10000", title: "10,000 idle connections", mode: proxying, path: "/300", answer: 300, connections: 10_000, idle: true},
}

// pages are what the backend answers.
func pages() map[string][]byte {
	return map[string][]byte{
		"/300":       load.Answer(300, ""),
		"/10k":       load.Answer(10<<10, ""),
		"/1m":        load.Answer(1<<20, ""),
		"/v1/traces": load.Answer(0, ""), // what is sent there by a gateway that traces
		"/cached":    load.Answer(300, "Cache-Control: public, max-age=3600\r\n"),
	}
}

func modesOf(works []*work) []mode {
	var all []mode
	seen := make(map[mode]bool)
	for _, w := range works {
		if !seen[w.mode] {
			seen[w.mode] = true
			all = append(all, w.mode)
		}
	}
	return all
}

// host is what every request is for.
const host = "api.example.com"

// secret signs the tokens of a run.
const secret = "a-secret-of-thirty-two-bytes-or-more"

// token is one for a subject, valid for ttl.
func token(subject, key string, ttl time.Duration) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": subject, "exp": time.Now().Add(ttl).Unix(), "iat": time.Now().Unix(),
	}).SignedString([]byte(key))
}

// requests are what the connections of a work send, by turns.
func (w *work) requests() ([]string, error) {
	const fields = "Host: " + host + "\r\nUser-Agent: peers/1\r\nAccept: */*\r\n"
	line, body := "GET "+w.path+" HTTP/1.1\r\n"+fields, ""
	if w.post > 0 {
		line = fmt.Sprintf("POST %s HTTP/1.1\r\n%sContent-Type: application/octet-stream\r\nContent-Length: %d\r\n", w.path, fields, w.post)
		body = strings.Repeat("x", w.post)
	}
	if !w.mode.authenticates() {
		return []string{line + "\r\n" + body}, nil
	}
	var all []string
	for i := range 8 {
		t, err := token(fmt.Sprintf("user-%d", i), secret, 24*time.Hour)
		if err != nil {
			return nil, err
		}
		all = append(all, line+"Authorization: Bearer "+t+"\r\n\r\n"+body)
	}
	return all, nil
}

// before is the work as i has it, or the backend alone, which speaks neither TLS
// nor HTTP/2.
func (w *work) before(i *instance) *work {
	if i != nil || !w.mode.secured() && !w.mode.http2() {
		return w
	}
	plain := *w
	plain.mode, plain.handshakes = proxying, false
	plain.connections, plain.streams = w.connections*max(w.streams, 1), 0
	return &plain
}

func (m mode) authenticates() bool { return m == tokens || m == watching }

func (m mode) secured() bool { return m == secure || m == multi }

func (m mode) http2() bool { return m == multi || m == clear }

// spec is a work as the load generator takes it.
func (w *work) spec(address string, warm, measure time.Duration) (load.Spec, error) {
	requests, err := w.requests()
	return load.Spec{
		Address: address, Requests: requests, Connections: w.connections, Rate: w.rate,
		Warm: warm, Measure: measure, Status: 200, Body: w.answer,
		TLS: w.mode.secured(), Handshakes: w.handshakes, HTTP2: w.mode.http2(), Streams: w.streams,
	}, err
}

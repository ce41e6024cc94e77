package router

import (
	"fmt"
	"testing"
)

// The count of routes must not show: compare the pairs.
func BenchmarkMatch(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{10, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", s.name, n), func(b *testing.B) {
				table := mustBuild(b, manyRoutes(n, s.shape)...)
				// A working set as in production: a few routes take most of the traffic.
				reqs := make([]*Request, 8)
				for i := range reqs {
					reqs[i] = s.request(i * n / len(reqs))
				}
				res := new(Result)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if table.Match(reqs[i%len(reqs)], res) != Found {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

func BenchmarkMatchOutcomes(b *testing.B) {
	routes := manyRoutes(1000, func(i int) Route {
		return Route{Hosts: []string{"api.example.com", "*.example.org"}, Paths: []string{fmt.Sprintf("/api/v1/service%d", i)}, Methods: []string{"GET", "POST"}}
	})
	table := mustBuild(b, routes...)
	f := func(name, text string, want Outcome) {
		b.Run(name, func(b *testing.B) {
			req, res := get(text), new(Result)
			b.ReportAllocs()
			for b.Loop() {
				if table.Match(req, res) != want {
					b.Fatal(text)
				}
			}
		})
	}
	f("exact host", "GET api.example.com/api/v1/service7/items/9", Found)
	f("wildcard host", "GET eu.example.org/api/v1/service7/items/9", Found)
	f("404", "GET api.example.com/api/v2/service7", NotFound)
	f("404 host", "GET other.example.net/api/v1/service7", NotFound)
	f("405", "PUT api.example.com/api/v1/service7", MethodNotAllowed)
}

func BenchmarkBuild10000(b *testing.B) {
	routes := manyRoutes(10_000, shapes[0].shape)
	b.ReportAllocs()
	for b.Loop() {
		Build(routes)
	}
}

func BenchmarkCanonical(b *testing.B) {
	f := func(name, path string) {
		b.Run(name, func(b *testing.B) {
			raw, buf := []byte(path), make([]byte, 0, 256)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Canonical(buf, raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	f("plain short", "/health")
	f("plain", "/api/v1/users/12345678/orders/99")
	f("plain long", "/api/v1/users/12345678/orders/99/api/v1/users/12345678/orders/99/api/v1/users/12345678/orders/99/abc")
	f("dot file", "/.well-known/acme-challenge/abcdefgh")
	f("escapes", "/api/v1/users/%6a%c3%a9/orders%20of/99")
	f("dots", "/api/../api//v1/./users/7/orders/99")
}

func BenchmarkAppendEncoded(b *testing.B) {
	path, buf := []byte("/api/v1/users/12345678/orders/99"), make([]byte, 0, 256)
	b.SetBytes(int64(len(path)))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendEncoded(buf[:0], path)
	}
}

func BenchmarkNormalizeHost(b *testing.B) {
	host, buf := []byte("api.example.com:8080"), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		NormalizeHost(buf, host)
	}
}

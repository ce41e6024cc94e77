package listener

import (
	"strings"
	"testing"
)

var heads = map[string]string{
	"small":   "GET /api/users/7?a=b HTTP/1.1\r\nHost: api.example\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n",
	"client":  "GET /api/users/7?a=b HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: Go-http-client/1.1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U\r\n\r\n",
	"browser": "GET /api/users/7?a=b HTTP/1.1\r\nHost: api.example.com\r\nConnection: keep-alive\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\nCookie: session=" + strings.Repeat("0123456789abcdef", 16) + "\r\n\r\n",
	"post":    "POST /api/users HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000),
}

func BenchmarkStrict(b *testing.B) {
	for name, head := range heads {
		data := []byte(head)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			var s strict
			for b.Loop() {
				if s.feed(data) != len(data) || s.state != atStart {
					b.Fatal("refused")
				}
			}
		})
	}
}

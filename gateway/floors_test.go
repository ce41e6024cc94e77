package gateway_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// floors are the packages in the order in which they may import: each one only
// what stands on a line above it. Leaves of one line never import each other.
var floors = [][]string{
	{"gateway/stripe", "gateway/socket", "gateway/grpcwire", "gateway/upstream/h2", "gateway/resident", "gateway/handover", "gateway/durable", "gateway/etcd", "gateway/kube", "gateway/consul", "gateway/wswire"},
	{"gateway/lifetime", "gateway/limiter", "gateway/breaker", "gateway/cache", "gateway/certs", "gateway/acme", "gateway/coding", "gateway/document", "gateway/upstream/balance"},
	{"gateway/keys", "gateway/revocation", "gateway/chain", "gateway/usage"},
	{"gateway/ledger"},
	{"gateway/convert", "gateway/cluster"},
	{"config"},
	{"gateway/exchange"},
	{"gateway/telemetry", "gateway/source"},
	{"gateway/delivery", "gateway/router", "gateway/discovery"},
	{"gateway/upstream"},
	{"gateway/policy", "gateway/wsconn"},
	{"gateway/transform"},
	{"gateway/action", "gateway/kong"},
	{"gateway/policy/*", "gateway/action/*", "gateway/discovery/*", "gateway/source/*"},
	{"gateway/snapshot", "gateway/listener"},
	{"gateway/registry"},
	{"gateway"},
	{"gateway/admin/*"},
	{"gateway/admin"},
}

// heavy are the dependencies that one package each may import; zap, which the clients for ACME and etcd want for their log, two.
var heavy = map[string]string{
	"github.com/caddyserver/certmagic":                  "gateway/acme",
	"github.com/mholt/acmez":                            "gateway/acme",
	"go.uber.org/zap":                                   "gateway/acme gateway/etcd",
	"go.etcd.io":                                        "gateway/etcd",
	"github.com/miekg/dns":                              "gateway/discovery/dns",
	"github.com/corazawaf/coraza":                       "gateway/policy/waf",
	"cel.dev/cel-go":                                    "gateway/policy/authorize",
	"github.com/vektah/gqlparser":                       "gateway/action/graphql",
	"github.com/quic-go/quic-go":                        "gateway/listener",
	"github.com/coreos/go-systemd/v22/activation":       "gateway/handover",
	"github.com/klauspost/compress":                     "gateway/coding",
	"github.com/molecule-man/go-brrr":                   "gateway/coding",
	"google.golang.org/genproto":                        "gateway/action/grpc",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace": "gateway/policy/tracing",
	"go.opentelemetry.io/proto":                         "gateway/policy/tracing",
	"go.opentelemetry.io/otel/exporters/otlp/otlplog":   "gateway/delivery",
	"go.opentelemetry.io/otel/sdk":                      "gateway/delivery",
	"go.opentelemetry.io/otel/log":                      "gateway/delivery",
	"modernc.org":                                       "gateway/ledger",
	"github.com/jackc/pgx":                              "gateway/ledger",
	"github.com/getkin/kin-openapi":                     "gateway/policy/openapi",
	"github.com/santhosh-tekuri/jsonschema":             "gateway/policy/openapi",
	"github.com/fasthttp/websocket":                     "gateway/wsconn",
	"github.com/redis/rueidis":                          "gateway/cluster",
}

func TestImportsGoUpwards(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "sluice/gateway/...", "sluice/config").Output()
	if err != nil {
		t.Fatal(err)
	}
	floorOf := func(pkg string) int {
		for i, floor := range floors {
			for _, p := range floor {
				if parent, leaf := strings.CutSuffix(p, "/*"); p == pkg || leaf && strings.HasPrefix(pkg, parent+"/") {
					return i
				}
			}
		}
		return -1
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], "sluice/")
		if strings.HasSuffix(pkg, "test") {
			continue // policytest, actiontest: for tests alone
		}
		own := floorOf(pkg)
		if own < 0 {
			t.Errorf("%s stands on no floor", pkg)
		}
		for _, imported := range fields[1:] {
			name, ours := strings.CutPrefix(imported, "sluice/")
			if ours && floorOf(name) >= own {
				t.Errorf("%s imports %s, which is not above it", pkg, name)
			}
			for dependency, owner := range heavy {
				if strings.HasPrefix(imported+"/", dependency+"/") && !slices.Contains(strings.Fields(owner), pkg) {
					t.Errorf("%s imports %s, which is %s's alone", pkg, imported, owner)
				}
			}
		}
	}
}

// What the engine has parsed of a request need not have its fields; see exchange.Exchange.
func TestFieldsComeFromTheExchange(t *testing.T) {
	asks := regexp.MustCompile(`\bx\.Request\.Header\.(Peek(All|Bytes|Keys)?\(|All|Visit|Cookie|ContentType|UserAgent|Referer|RawHeaders|HasAccept|MultipartForm|Len\()`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		switch filepath.ToSlash(filepath.Dir(path)) {
		case "exchange", "policy/policytest":
			return nil // trailers, and requests that tests make
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range asks.FindAll(b, -1) {
			t.Errorf("%s: %s...: ask the exchange", path, found)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

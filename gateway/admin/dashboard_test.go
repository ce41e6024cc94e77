package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestDashboardFiles asks for the page and for every file that it and its files name: without the token, since they say
// nothing, and with headers that let a browser run nothing else.
func TestDashboardFiles(t *testing.T) {
	w := newWorld(t, simple, func(o *Options) { o.Token = "s3cret-token" })
	res, page := w.ask("GET", "/", "")
	policy := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("%s is not in %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") || res.Header.Get("Content-Type") != "text/html; charset=utf-8" || res.Header.Get("Cache-Control") != "no-store" {
		t.Error(res.Header)
	}
	onlyHashed(t, page, policy)
	named := regexp.MustCompile(`(?:src|href|content)="(/dashboard/[^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(named) != 2 {
		t.Errorf("the page names %v, not its module and its icon", named)
	}
	for _, m := range named {
		path := m[1]
		res, got := w.ask("GET", path, "")
		if res.StatusCode != http.StatusOK || res.Header.Get("ETag") == "" || res.Header.Get("Cache-Control") != "no-cache" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, res.StatusCode, res.Header)
		}
		if kind := res.Header.Get("Content-Type"); strings.HasSuffix(path, ".js") != (kind == "text/javascript; charset=utf-8") {
			t.Errorf("%s is %s", path, kind)
		}
		if res, _ := w.ask("GET", path, "", "If-None-Match", res.Header.Get("ETag")); res.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", path, res.StatusCode)
		}
		if more := regexp.MustCompile(`(?m)^import\b|\bimport\(|^export\b.*\bfrom\b`).FindString(got); more != "" {
			t.Errorf("%s has %q: another request before something is to be seen", path, more)
		}
	}
	for _, path := range []string{"/dashboard/", "/dashboard/nothing.js", "/dashboard/index.html", "/dashboard/../api/config", "/dashboard/%2e%2e/api/config", "/dashboard/main.js/"} {
		w.want(401, "GET", path, "")
	}
	w.token = "s3cret-token"
	w.want(404, "GET", "/dashboard/nothing.js", "")
	w.want(405, "POST", "/dashboard/main.js", "")
}

// onlyHashed holds a page to one script and one style in itself, those that its policy names by their hashes.
func onlyHashed(t *testing.T, page, policy string) {
	t.Helper()
	for _, kind := range []string{"script", "style"} {
		found := regexp.MustCompile(`(?s)<`+kind+`>(.*?)</`+kind+`>`).FindAllStringSubmatch(page, -1)
		if len(found) != 1 {
			t.Errorf("the page has %d of <%s> in itself", len(found), kind)
			continue
		}
		sum := sha256.Sum256([]byte(found[0][1]))
		if want := kind + "-src 'self' 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("%s is not in %s", want, policy)
		}
		page = strings.Replace(page, found[0][0], "", 1)
	}
	if regexp.MustCompile(`<style|<script[^>]*>[^<]|\son\w+=|\sstyle=|https?://`).MatchString(page) {
		t.Error("the page has another script, style or address in itself")
	}
}

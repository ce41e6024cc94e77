package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
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
	named := regexp.MustCompile(`(?:src|href)="(/dashboard/[^"]+)"`)
	imported := regexp.MustCompile(`(?:from|import) '([^']+)'`)
	seen := make(map[string]bool)
	var follow func(path string)
	follow = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
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
		folder := path[:strings.LastIndex(path, "/")+1]
		for _, m := range imported.FindAllStringSubmatch(got, -1) {
			if !strings.HasPrefix(m[1], "./") && !strings.HasPrefix(m[1], "../") {
				t.Errorf("%s imports %s", path, m[1])
				continue
			}
			up, _ := strings.CutPrefix(m[1], "../")
			if up != m[1] {
				follow("/dashboard/" + up)
			} else {
				follow(folder + strings.TrimPrefix(m[1], "./"))
			}
		}
	}
	for _, path := range modulesOf(page) {
		follow(path)
	}
	for path := range seen {
		if !slices.Contains(modulesOf(page), path) {
			t.Errorf("%s is loaded late: the page does not name it", path)
		}
	}
	for _, m := range named.FindAllStringSubmatch(page, -1) {
		follow(m[1])
	}
	if len(seen) < 25 {
		t.Errorf("only %v are named", seen)
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

// modulesOf are the modules that a page names, its own first.
func modulesOf(page string) []string {
	m := regexp.MustCompile(`<meta name="modules" content="([^"]+)">`).FindStringSubmatch(page)
	if m == nil {
		return nil
	}
	return strings.Fields(m[1])
}

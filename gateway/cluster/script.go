package cluster

import (
	"context"
	"crypto/sha1" //nolint:gosec // the name by which Redis knows a script
	_ "embed"
	"encoding/hex"

	"github.com/redis/rueidis"
)

// script runs on the server.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // as above
	return script{text, hex.EncodeToString(sum[:])}
}

var (
	//go:embed limit.lua
	limitText string
	//go:embed beat.lua
	beatText string
	//go:embed quota.lua
	quotaText string
	//go:embed record.lua
	recordText string

	limitScript, beatScript, quotaScript, recordScript = newScript(limitText), newScript(beatText), newScript(quotaText), newScript(recordText)
)

// command is one run of a script on one key.
type command struct {
	script *script
	key    string
	args   []string
}

// exec runs commands in one go. A server that does not know a script yet, as after a restart, is given its text.
func (s *Store) exec(ctx context.Context, commands []command) []rueidis.RedisResult {
	p := s.client.Load()
	if p == nil {
		return failed(len(commands), errNoClient)
	}
	c := *p
	built := make([]rueidis.Completed, len(commands))
	for i := range commands {
		m := &commands[i]
		built[i] = c.B().Evalsha().Sha1(m.script.sha).Numkeys(1).Key(m.key).Arg(m.args...).Build()
	}
	results := c.DoMulti(ctx, built...)
	var again []rueidis.Completed
	var at []int
	for i := range results {
		if e, ok := rueidis.IsRedisErr(results[i].Error()); ok && e.IsNoScript() {
			m := &commands[i]
			again, at = append(again, c.B().Eval().Script(m.script.text).Numkeys(1).Key(m.key).Arg(m.args...).Build()), append(at, i)
		}
	}
	if again != nil {
		for i, r := range c.DoMulti(ctx, again...) {
			results[at[i]] = r
		}
	}
	return results
}

func failed(n int, err error) []rueidis.RedisResult {
	results := make([]rueidis.RedisResult, n)
	for i := range results {
		results[i] = rueidis.NewErrorResult(err)
	}
	return results
}

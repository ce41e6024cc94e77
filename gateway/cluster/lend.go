package cluster

import (
	"container/heap"
	"context"
	"math"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

const (
	// validFor is for how long a lot may be used.
	validFor = 5 * time.Second
	// rests is for how long what an idle instance keeps may be used: the store remembers it for 60 s.
	rests = 50 * time.Second
	// renewal is how long before that it is renewed.
	renewal = 2 * time.Second
	// lasts is for how many timeouts what is fetched is to last, at the rate of late: half of it lasts until a store that is silent counts as
	// gone. The horizon that this gives is bounded.
	lasts             = 2 * silence
	shortest, longest = 100 * time.Millisecond, time.Second
	// rating is the least time over which a rate is taken.
	rating = 10 * time.Millisecond
	// settling is how fast the rate follows what is asked for.
	settling = 100 * time.Millisecond
	// idle is after how long without a request everything is given back.
	idle = time.Second
	// keepAlone is for how long an instance goes on alone after the store is back, so that all have noticed.
	keepAlone = 200 * time.Millisecond
	// retry is the pause after a call that failed.
	retry = 50 * time.Millisecond
	// hungry bounds the pauses of an instance that was given less than it wants; a quarter of what a bucket holds is earned in less.
	hungryMost, hungryLeast = 5 * time.Millisecond, time.Millisecond
	// maxLoans is how many buckets one call is about, maxLoanFlushes how many calls are under way.
	maxLoans, maxLoanFlushes = 256, 4
	// rejoinAtOnce is how many buckets rejoin in a millisecond.
	rejoinAtOnce = 50
	longestStay  = 30 * time.Second
	// untoldPart is the part of a bucket that is used at most before the store is told: until then nothing is earned in its place.
	untoldPart = 32
)

// loan is what is asked of the store for one bucket.
type loan struct {
	b                *bucket
	op               string
	nonce            string
	limits           *Limits
	debts            [MaxWindows]debt
	over             [MaxWindows]int64 // when the windows end that the debts are of
	owe              int64             // the same of all windows, but for one who has served alone
	held, give, want int64
	sent             time.Time
	asked            int64
	command
}

// noBirth stands for one that has not been told of yet.
const noBirth = "0"

// run fetches what is used up, and gives back what is not.
func (l *Limiter) run() {
	defer close(l.ended)
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-l.store.ctx.Done():
			return
		case b := <-l.pokes:
			l.schedule(b, 0)
		case <-l.wake:
		case <-t.C:
		}
		if l.closing.Load() {
			return
		}
		now := l.store.o.Now()
		room := (maxLoanFlushes - int(l.flushes.Load())) * maxLoans
		loans, next := l.turn(now, room)
		for len(loans) > 0 {
			some := loans[:min(len(loans), maxLoans)]
			loans = loans[len(some):]
			l.flushes.Add(1)
			l.store.done.Go(func() {
				l.settle(some)
				l.flushes.Add(-1)
				l.rouse()
			})
		}
		if l.flushes.Load() >= maxLoanFlushes {
			next = now + int64(time.Hour) // the end of a flush rouses
		}
		t.Reset(time.Duration(min(max(next-now, int64(100*time.Microsecond)), int64(time.Hour))))
	}
}

// rouse has run look again.
func (l *Limiter) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// turn returns what is to be asked for the buckets that are due, of which it takes up as many as there is room for, and when the next
// one is.
func (l *Limiter) turn(now int64, room int) (loans []*loan, next int64) {
	for more := true; more; {
		select {
		case b := <-l.pokes:
			l.schedule(b, 0)
		default:
			more = false
		}
	}
	var due []*bucket
	l.mu.Lock()
	for len(due) < room && len(l.agenda) > 0 && l.agenda[0].due <= now {
		due = append(due, heap.Pop(&l.agenda).(*bucket))
	}
	next = math.MaxInt64
	if len(l.agenda) > 0 {
		next = l.agenda[0].due
	}
	l.mu.Unlock()
	if next == math.MaxInt64 {
		next = now + int64(time.Hour)
	}
	fleet, up := l.store.fleet.Load(), l.store.up.Load()
	for _, b := range due {
		b.guard.Lock()
		o, at := l.plan(b, now, fleet, up)
		b.guard.Unlock()
		switch {
		case o != nil:
			loans = append(loans, o)
		case at != 0:
			l.schedule(b, at)
			next = min(next, at)
		}
	}
	return loans, next
}

// plan decides what is asked for a bucket, or when to look at it again. The caller holds its guard.
func (l *Limiter) plan(b *bucket, now int64, fleet *fleet, up bool) (o *loan, at int64) {
	switch {
	case b.busy:
		return nil, 0 // looked at again when the call ends
	case !up:
		b.asked = false
		return nil, 0 // and when the store is back
	}
	b.measure(now)
	if b.lost != nil {
		return l.repeat(b, now, fleet), 0
	}
	o = &loan{b: b, limits: b.limits, asked: now, nonce: number(l.calls.Add(1))}
	birth := noBirth
	quiet := now-b.used >= int64(idle)
	switch {
	case b.alone:
		part := 1 / float64(fleet.most)
		b.refill(now, part, l.store.o.Wall)
		o.op, o.debts = "rejoin", b.debts(part)
		if b.birth != "" {
			birth = b.birth
		}
		if l.Strict(b.limits) {
			o.op = "pay"
		} else {
			o.held = max(0, b.least())
		}
	case quiet && !b.recall:
		o.op = "release"
		if b.key != "" {
			o.want = l.spare(b)
		}
		switch {
		case b.told:
			o.give = b.held
		case !b.lapsed:
			b.unpaid += b.taken
		}
	case !b.told && !b.lapsed && b.held >= b.ask && !b.recall && !b.asked && now < b.until-int64(renewal):
		return nil, b.later() // as little as it has used can wait
	case !b.told:
		o.op = "claim"
		if b.lapsed {
			o.give = b.held // debited before
		} else {
			b.unpaid += b.taken
		}
		switch {
		case b.recall && quiet:
			b.held = 0
		case b.recall:
			b.held = min(b.held, l.target(b))
		default:
			o.want = l.target(b) - b.held
		}
		o.held = max(0, b.held)
	default:
		o.op, o.held = "sync", b.held
		target := l.target(b)
		switch {
		case b.recall && quiet:
			o.give = b.held
		case b.recall:
			o.give = max(0, b.held-target)
		case b.held < b.ask || b.asked:
			o.want = target - b.held
		case now < b.until-int64(renewal):
			return nil, b.later()
		}
		o.held -= o.give
		b.held -= o.give
	}
	b.recall = false
	o.want = max(0, o.want)
	for i := range b.meters {
		if !b.alone {
			o.owe = b.unpaid
			o.debts[i].owe = float64(o.owe)
		}
		o.over[i] = b.meters[i].over
	}
	b.asked, b.busy, b.taken = true, true, 0
	l.command(o, fleet, birth)
	return o, 0
}

// command is how a loan is asked for.
func (l *Limiter) command(o *loan, fleet *fleet, birth string) {
	o.command = command{&limitScript, o.b.name, o.limits.args([]string{
		l.store.scriptNow(), o.op, l.store.id, fleet.ids, number(o.limits.share(fleet.least)), number(o.held), number(o.give), number(o.want),
		number(o.limits.cost), number(validFor.Microseconds()), o.nonce, birth,
	}, &o.debts)}
}

// repeat asks again for what may have been lent already. The caller holds the bucket's guard.
func (l *Limiter) repeat(b *bucket, now int64, fleet *fleet) *loan {
	o := b.lost
	part := float64(1)
	if b.alone {
		part = 1 / float64(fleet.most)
	}
	b.refill(now, part, l.store.o.Wall)
	for i := range b.meters {
		if b.meters[i].over != o.over[i] {
			o.debts[i] = debt{} // of a window that is over
		}
	}
	birth := o.args[birthArg]
	b.asked, b.busy, o.asked = true, true, now
	l.command(o, fleet, birth)
	return o
}

// Where arguments of the script are that change on the way.
const heldArg, wantArg, birthArg = 5, 7, 11

func number(n int64) string { return strconv.FormatInt(n, 10) }

// measure brings the rate up to date.
func (b *bucket) measure(now int64) {
	if now-b.rated < int64(rating) && b.rate > 0 {
		return
	}
	passed := float64(max(now-b.rated, int64(rating)))
	weight := passed / (passed + float64(settling))
	if b.rate == 0 {
		weight = 1
	}
	b.rate += weight * (float64(b.demand)/passed - b.rate)
	b.demand, b.rated = 0, now
}

// target is how much is to be held: what is used within the horizon, though no more than half of the share, and two requests more.
func (l *Limiter) target(b *bucket) int64 {
	cost := b.limits.cost
	n := min(int64(b.rate*float64(l.horizon)), b.limits.share(l.store.fleet.Load().most)/2) + 2*cost
	return n - n%cost
}

// spare is how much an instance keeps that is not asked for anything, so that the first requests after a pause do not find it with nothing.
func (l *Limiter) spare(b *bucket) int64 {
	cost := b.limits.cost
	n := max(2*cost, int64(b.limits.least/untoldPart))
	return n - n%cost
}

// settle asks the store and applies what it says.
func (l *Limiter) settle(loans []*loan) {
	ctx, cancel := context.WithTimeout(l.store.ctx, max(patience, l.store.o.Timeout))
	defer cancel()
	commands := make([]command, len(loans))
	sent := time.Now()
	for i, o := range loans {
		commands[i], o.sent = o.command, sent
	}
	defer l.store.watch(sent)()
	results := l.store.exec(ctx, commands)
	now := l.store.o.Now()
	for i, r := range results {
		a, err := readLoan(r, loans[i].limits)
		l.store.observe("lend", sent, err)
		l.store.fault(err)
		if err != nil {
			l.say(loans[i].b, now, err)
			l.fail(loans[i], now)
		} else {
			l.apply(loans[i], a, now)
		}
	}
}

// say tells of a bucket that can not be counted although the store is there: no more than is held of it passes.
func (l *Limiter) say(b *bucket, now int64, err error) {
	if _, answered := rueidis.IsRedisErr(err); !answered || !l.store.up.Load() {
		return
	}
	l.mu.Lock()
	due := l.said == 0 || now-l.said >= int64(sayEvery)
	if due {
		l.said = now
	}
	l.mu.Unlock()
	if due {
		l.store.o.Log.Error("a limit can not be counted in the shared store, so that no more passes than this instance holds of it; delete the key if it is none of this gateway's",
			"key", b.name, "error", describe(err))
	}
}

// reply is what the script says of a bucket.
type reply struct {
	granted, keep int64
	forgotten     bool
	untold, out   int64
	birth         string
	tokens        [MaxWindows]float64
}

func readLoan(r rueidis.RedisResult, limits *Limits) (a reply, err error) {
	all, err := r.ToArray()
	if err != nil || len(all) != 6+len(limits.windows) {
		return a, cmpErr(err)
	}
	var numbers [5]int64
	for i := range numbers {
		if numbers[i], err = all[i].AsInt64(); err != nil {
			return a, err
		}
	}
	a.granted, a.keep, a.forgotten, a.untold, a.out = numbers[0], numbers[1], numbers[2] == 1, numbers[3], numbers[4]
	if a.birth, err = all[5].ToString(); err != nil {
		return a, err
	}
	for i := range limits.windows {
		if a.tokens[i], err = all[6+i].AsFloat64(); err != nil {
			return a, err
		}
	}
	return a, nil
}

// apply takes up what the store has said.
func (l *Limiter) apply(o *loan, a reply, now int64) {
	b := o.b
	b.guard.Lock()
	b.busy, b.lost = false, nil
	used := b.taken // while the call was under way
	at := int64(0)
	switch {
	case b.limits != o.limits:
		// Other limits have begun meanwhile: what was granted lapses.
		b.asked = false
		if o.op == "release" {
			b.told, b.held = false, 0
		}
		b.guard.Unlock()
		l.schedule(b, now+int64(retry))
		return
	case b.alone && o.op != "rejoin" && o.op != "pay":
		b.account(o, a)
		b.guard.Unlock()
		l.schedule(b, now)
		return
	case o.op == "pay":
		l.end(b)
		return
	case o.op == "release":
		b.unpaid -= o.owe
		if a.forgotten && used == 0 && b.unpaid == 0 {
			l.end(b)
			return
		}
		b.unpaid += used
		b.taken = 0
		b.held = a.granted
		b.told, b.lapsed = !a.forgotten, false
		if a.forgotten {
			// Requests came meanwhile: it begins anew, with its share.
			b.held = max(0, b.limits.share(l.store.fleet.Load().most)-used)
			b.ask = math.MaxInt64
			at = now
		}
	case o.op == "sync":
		b.unpaid -= o.owe
		b.held += a.granted
	default:
		mine := a.keep + a.granted
		b.unpaid = max(0, used-mine)
		if b.alone && b.unpaid > 0 {
			// It may have been long: what its part has earned again is not owed.
			lacks, most := b.debts(1/float64(l.store.fleet.Load().most)), float64(0)
			for i := range b.meters {
				most = max(most, lacks[i].lacks)
			}
			b.unpaid = min(b.unpaid, int64(most))
		}
		b.held = max(0, mine-used)
		b.told, b.alone, b.lapsed = true, false, false
	}
	b.birth = a.birth
	if o.op != "release" || !a.forgotten {
		b.until = o.asked + int64(validFor)
		if o.op == "release" {
			b.until = o.asked + int64(rests)
		}
		for i := range b.meters {
			b.meters[i].tokens = a.tokens[i] + float64(b.held)
		}
		b.at = max(b.at, now)
		b.turn()
	}
	short := a.granted < o.want && o.op != "release"
	call := short && (a.untold > 0 || a.out > 0) && now >= b.called+b.calls
	if call {
		b.called, b.calls = now, min(max(2*b.calls, int64(20*time.Millisecond)), int64(2*time.Second))
	} else if !short {
		b.calls = 0
	}
	if at == 0 {
		at = l.next(b, o, a, now, short, call)
	}
	b.guard.Unlock()
	l.schedule(b, at)
	if call {
		l.store.events.send("recall", o.limits.id+"\n"+b.name)
	}
}

// next decides when a bucket is looked at again. The caller holds its guard.
func (l *Limiter) next(b *bucket, o *loan, a reply, now int64, short, call bool) int64 {
	target := l.target(b)
	b.low = max(b.limits.cost, target/2)
	b.ask = max(b.low, b.held-int64(b.limits.least/untoldPart))
	recent := now-b.used < int64(idle)
	switch {
	case b.recall, b.unpaid > 0:
		b.asked = true
		return now + int64(hungryLeast)
	case o.op == "release":
		// Its share can not be kept for it yet.
		b.asked, b.low, b.ask = false, b.limits.cost, max(b.limits.cost, b.held)
		b.waits = min(max(2*b.waits, int64(idle)), int64(longestStay))
		return now + b.waits
	case short && recent && b.held < b.low:
		b.asked = true
		if call {
			return now + int64(hungryLeast)
		}
		return now + b.pause(a, b.limits.share(l.store.fleet.Load().least))
	case !recent:
		// Others may be in want of what was given back: it is not claimed at once.
		b.asked, b.waits = false, max(b.waits, int64(idle))
		return now + b.waits
	}
	b.waits = 0
	if b.held < b.low {
		b.asked = true
		return now
	}
	b.asked = false
	return b.later()
}

// later is when to look at a bucket that has what it needs: to renew what it holds, or to give it back.
func (b *bucket) later() int64 { return min(b.used+int64(idle), b.until-int64(renewal)) }

// pause is how long one that was given too little waits before it asks again: until there is something to be given.
func (b *bucket) pause(a reply, share int64) int64 {
	pause := int64(hungryMost)
	for i := range b.meters {
		w := &b.limits.windows[i]
		free := a.tokens[i] - float64(share*a.untold)
		if !w.fixed {
			pause = min(pause, max(int64(hungryLeast), int64(w.capacity/4*w.each)))
		}
		if cost := float64(b.limits.cost); free < cost {
			wait := float64(b.meters[i].over - b.at)
			if !w.fixed {
				wait = (cost - free) * w.each
			}
			if a.untold == 0 {
				pause = max(pause, int64(min(wait, float64(idle))))
			}
		}
	}
	return pause
}

// account is what an answer means to one that has gone on alone meanwhile. The caller holds the guard.
func (b *bucket) account(o *loan, a reply) {
	lent := a.granted
	switch o.op {
	case "claim":
		lent += a.keep - o.give
	case "release":
		lent -= o.give
	}
	for i := range b.meters {
		if m := &b.meters[i]; m.over == o.over[i] {
			m.owes -= float64(o.owe + lent)
			m.owed = max(0, m.owed-float64(o.owe))
		}
	}
	b.asked, b.birth = false, a.birth
}

// fail is what becomes of a bucket whose call has failed: it is made again, since it may have been carried out.
func (l *Limiter) fail(o *loan, now int64) {
	b := o.b
	b.guard.Lock()
	b.busy, b.asked = false, false
	if b.limits == o.limits {
		b.lost = o
	}
	b.guard.Unlock()
	l.schedule(b, now+int64(retry))
}

// end forgets a bucket that says nothing any more, and unlocks its guard.
func (l *Limiter) end(b *bucket) {
	if b.key == "" {
		b.guard.Unlock()
		l.mu.Lock()
		b.gone = true
		l.agenda.drop(b)
		if l.byName[b.name] == b {
			delete(l.byName, b.name)
		}
		l.mu.Unlock()
		return
	}
	sh := l.shard([]byte(b.key))
	if sh.buckets[b.key] == b {
		l.forget(sh, b)
	}
	b.guard.Unlock()
}

// recover is called when the store is back. Instances that have served alone tell of it, once all have noticed.
func (l *Limiter) recover() {
	at := l.store.o.Now() + int64(keepAlone)
	l.mu.Lock()
	all := make([]*bucket, 0, len(l.byName))
	for _, b := range l.byName {
		all = append(all, b)
	}
	l.mu.Unlock()
	for n, b := range all {
		b.guard.Lock()
		b.asked = true
		b.guard.Unlock()
		l.schedule(b, at+int64(n/rejoinAtOnce)*int64(time.Millisecond))
	}
}

// recalled is called when another instance is in want of what this one holds, or may hold without having told of it.
func (l *Limiter) recalled(id, name string) {
	now := l.store.o.Now()
	l.mu.Lock()
	b := l.byName[name]
	blocks := l.blocks[id]
	if b == nil && len(blocks) > 0 && len(l.byName)-l.Len() < maxStrays {
		limits := blocks[len(blocks)-1]
		b = &bucket{name: name, guard: &l.strays, limits: limits, meters: make([]meter, len(limits.windows)), at: now, rated: now, recall: true, asked: true, used: now - int64(idle), index: -1}
		l.byName[name] = b
		l.mu.Unlock()
		l.schedule(b, now)
		return
	}
	l.mu.Unlock()
	if b == nil {
		return
	}
	b.guard.Lock()
	b.recall = true
	b.guard.Unlock()
	l.schedule(b, now)
}

// returnAll gives everything back, as far as there is time.
func (l *Limiter) returnAll() {
	ctx, cancel := context.WithTimeout(l.store.ctx, max(l.store.o.Timeout, 500*time.Millisecond))
	defer cancel()
	l.closing.Store(true)
	l.rouse()
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
	for l.flushes.Load() > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // what is under way may be lent to this instance
	}
	now, fleet := l.store.o.Now(), l.store.fleet.Load()
	var commands []command
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		for _, b := range sh.buckets {
			if b.busy || !b.told && !b.alone && b.taken == 0 {
				continue
			}
			if !b.alone {
				b.used = now - int64(idle) // what it has used is told, what it holds given back
			}
			if o, _ := l.plan(b, now, fleet, true); o != nil {
				if o.op == "rejoin" || o.op == "claim" { // tells what was used, and keeps nothing
					o.args[heldArg] = "0"
				}
				o.args[wantArg] = "0"
				commands = append(commands, o.command)
			}
		}
		sh.mu.Unlock()
	}
	for len(commands) > 0 && ctx.Err() == nil {
		n := min(len(commands), maxLoans)
		l.store.exec(ctx, commands[:n])
		commands = commands[n:]
	}
}

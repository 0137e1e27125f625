package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"testing"
	"time"
)

// goLabel makes a label as a PoET server in Go does.
func goLabel(statement []byte, index uint64, siblings []byte) [32]byte {
	first := binary.BigEndian.AppendUint64(append([]byte(nil), statement...), index)
	label := sha256.Sum256(append(first, siblings...))
	for i := 1; i < 400; i++ {
		label = sha256.Sum256(label[:])
	}
	return label
}

// Leaf 2^18-1, with its 18 siblings.
const index = 1<<18 - 1

var (
	statement = bytes.Repeat([]byte{7}, 32)
	siblings  = bytes.Repeat([]byte{9}, 18*32)
)

func TestLabelIsThatOfGo(t *testing.T) {
	work, err := OpenWork()
	if err != nil {
		t.Fatal(err)
	}
	defer work.Close()
	label, err := work.Label(statement, index, siblings)
	if err != nil || label != goLabel(statement, index, siblings) {
		t.Fatal(label, err)
	}
	if _, err = work.Label(statement, index, siblings[32:]); err == nil {
		t.Fatal("a sibling is missing, and nobody noticed")
	}
}

func TestRound(t *testing.T) {
	if err := round([]byte("a test in Go"), 1000); err != nil {
		t.Fatal(err)
	}
}

// benchmark reports the best time in addition to the mean: other load on the machine does not affect it.
func benchmark(b *testing.B, label func() error) {
	best := time.Duration(math.MaxInt64)
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		start := time.Now()
		if err := label(); err != nil {
			b.Fatal(err)
		}
		if elapsed := time.Since(start); elapsed < best {
			best = elapsed
		}
	}
	b.ReportMetric(float64(best.Nanoseconds()), "best-ns/op")
}

func BenchmarkLabelGo(b *testing.B) {
	benchmark(b, func() error {
		goLabel(statement, index, siblings)
		return nil
	})
}

func BenchmarkLabelPoet(b *testing.B) {
	work, err := OpenWork()
	if err != nil {
		b.Fatal(err)
	}
	defer work.Close()
	benchmark(b, func() error {
		_, err := work.Label(statement, index, siblings)
		return err
	})
}

package main

import (
	"errors"
	"fmt"
	"log"
	"time"
)

// round works until another goroutine has seen enough leaves, proves and verifies.
func round(statement []byte, enough uint64) (err error) {
	worker, err := OpenWorker(statement, "")
	if err != nil {
		return err
	}
	defer func() {
		if closed := worker.Close(); err == nil {
			err = closed
		}
	}()

	watched := make(chan error, 1)
	go func() {
		for {
			time.Sleep(20 * time.Millisecond)
			leaves, err := worker.Leaves()
			if err != nil {
				watched <- err
				return
			}
			fmt.Println(leaves, "leaves")
			if leaves >= enough {
				watched <- worker.Stop()
				return
			}
		}
	}()
	stopped := false
	for !stopped {
		if stopped, err = worker.Advance(time.Second); err != nil {
			return err
		}
	}
	if err = <-watched; err != nil {
		return err
	}

	leaves, err := worker.Leaves()
	if err != nil {
		return err
	}
	proof, err := worker.Prove(1)
	if err != nil {
		return err
	}
	if err = Verify(statement, leaves, proof); err != nil {
		return err
	}
	fmt.Printf("a valid proof of %d leaves, %d bytes\n", leaves, len(proof))

	var refused *Error
	wrong := Verify(statement, leaves+1, proof)
	if !errors.As(wrong, &refused) || refused.Status != InvalidProof {
		return fmt.Errorf("a wrong claim came to: %v", wrong)
	}
	fmt.Println("of one leaf more:", wrong)
	return nil
}

func main() {
	fmt.Println(Version())
	if err := round([]byte("a round in Go"), 5000); err != nil {
		log.Fatal(err)
	}
}

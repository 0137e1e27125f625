module example.org/poet

go 1.19

# Sourced by _bipartite.sh and _two_point.sh: the corpora that the figures name.

. common/environment.sh

# named CORPUS: sets corpus and prepare_flags for the names below; any other CORPUS goes to prepare_dataset.py as it is.
named() {
    corpus=$1 prepare_flags=""
    case $1 in
        four_books) corpus=data/sample/books prepare_flags="--source books" ;;
        twelve_books) corpus='data/sample/*books/*.txt' prepare_flags="--source books" ;;
        books) corpus='data/sample/*books/**/*.txt' prepare_flags="--source books" ;; # and 26 presidents' addresses
        wikipedia) corpus=data/sample/wikipedia.jsonl prepare_flags="--source wikipedia" ;;
        pg19) corpus=emozilla/pg19 prepare_flags="--source pg19 --streaming --min-book-words 5000" ;;
        all_wikipedia)
            corpus=wikimedia/wikipedia
            prepare_flags="--source wikipedia --config 20231101.en --streaming --min-book-words 1000"
            ;;
    esac
}

# fetch_corpus: fetches $corpus if it is part of the sample.
fetch_corpus() {
    case $corpus in
        data/sample/books) "$python" measure_mutual_info/fetch_sample.py --parts books ;;
        'data/sample/*books/'*) "$python" measure_mutual_info/fetch_sample.py --parts books more_books ;;
        data/sample/wikipedia.jsonl) "$python" measure_mutual_info/fetch_sample.py --parts wikipedia ;;
    esac
}
